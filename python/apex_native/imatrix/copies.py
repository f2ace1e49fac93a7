"""Where copies of a model go: one to each GPU that holds all of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from apex_native.engine import Placement
from apex_native.gguf import open_gguf
from apex_native.gpu_layers import CONTEXT_BYTES, MARGIN_BYTES, free_gpu_bytes
from apex_native.machine import default_threads

__all__ = ["copies_on_gpus", "places_of"]


def places_of(
    placement: Placement | Sequence[Placement] | None,
    model: str | os.PathLike[str],
    gpu_memory: int | None = None,
) -> tuple[Placement, ...]:
    """The places that were asked for, or what `copies_on_gpus` makes of the one.

    gpu_memory: bytes of one GPU that a single place is limited to.
    """
    if placement is not None and not isinstance(placement, Placement):
        if not placement:
            raise ValueError("placement is empty; give at least one place to compute")
        return tuple(placement)
    chosen = placement or Placement()
    if gpu_memory is not None:
        chosen = replace(chosen, gpu_memory=gpu_memory)
    free = free_gpu_bytes() if chosen.is_left_open else []
    if len(free) < 2:
        return (chosen,)
    with open_gguf(model) as file:
        nbytes = sum(shard.stat().st_size for shard in file.shard_paths)
    return copies_on_gpus(chosen, nbytes, free)


def copies_on_gpus(placement: Placement, nbytes: int, free: Sequence[int]) -> tuple[Placement, ...]:
    """A placement for each GPU with room for a model of nbytes, its cache and its buffers.

    free: bytes of each GPU. The placement as it is where fewer than two have room: then the model
    is spread over all of them. The threads are shared out.
    """
    needed = nbytes + CONTEXT_BYTES + MARGIN_BYTES + placement.gpu_reserve
    gpus = [f"CUDA{i}" for i, room in enumerate(free) if room >= needed]
    if len(gpus) < 2:
        return (placement,)
    n_threads = max(1, (placement.n_threads or default_threads()) // len(gpus))
    return tuple(
        replace(placement, devices=(gpu,), n_gpu_layers=-1, n_threads=n_threads) for gpu in gpus
    )
