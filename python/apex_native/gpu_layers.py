"""How many layers of a model a machine's GPUs hold, added up before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from apex_native._native import core, forward_log
from apex_native.errors import DeviceError
from apex_native.machine import gpu_names

__all__ = ["CONTEXT_BYTES", "MARGIN_BYTES", "fit_gpu_layers", "free_gpu_bytes", "has_gpu"]

CONTEXT = 2048
"""Tokens computed at once, as `GPU_UBATCH`, in `SEQUENCES` chunks of 512."""

SEQUENCES = 4
OUTPUTS = 1024
"""The half of a chunk that is scored, of four chunks."""

CONTEXT_BYTES = 2 << 30
"""Cache, buffers and logits of a model on a GPU beside its weights: 1.9 GiB with 2,048 tokens of
four chunks at once and a vocabulary of a quarter of a million."""

MARGIN_BYTES = 1 << 30
"""Left free on every GPU: what CUDA's libraries and our own kernels take beside llama.cpp."""


@cache
def has_gpu() -> bool:
    """This build can use a GPU of this machine, and CUDA_VISIBLE_DEVICES leaves it one.

    Asked once: it starts CUDA, and a process' GPUs do not change.
    """
    if not core.build_info()["cuda"] or not gpu_names():
        return False
    try:
        return bool(core.cuda_devices())
    except DeviceError:
        return False


def free_gpu_bytes() -> list[int]:
    """What each GPU has free; empty where there is none to use."""
    return [gpu["free_bytes"] for gpu in core.cuda_devices()] if has_gpu() else []


def fit_gpu_layers(open_plan: Callable[[int], Any], *, reserve: int = 0) -> int:
    """The most layers, -1 for all, that leave `reserve` bytes over on all GPUs together.

    open_plan: a native model with so many layers on the GPUs, without weights (no_alloc). It takes
    as long as reading the vocabulary, so few are asked for: all layers, the share that there is
    room for, and fewer as long as that does not fit. Where a model is on several GPUs, the reserve
    is shared out evenly.
    """
    everything = open_plan(-1)
    used = _used(everything)
    if not used:
        return 0
    margin = MARGIN_BYTES + reserve // len(used)
    if _fits(used, margin):
        return -1
    # The fullest GPU decides; its largest graph takes about the same however many layers it has.
    share = min((free - margin - compute) / held for held, compute, free in used)
    n = int(everything.n_layers * max(share, 0.0))
    while n > 0 and not _fits(_used(open_plan(n)), margin):
        n -= 1
    return n


def _used(plan: Any) -> list[tuple[int, int, int]]:
    """Of each GPU: bytes of weights and cache, bytes of the largest graph, free bytes."""
    uses = plan.memory_use(
        n_ctx=CONTEXT, n_batch=CONTEXT, n_seq_max=SEQUENCES, n_outputs_max=OUTPUTS
    )
    forward_log()
    return [
        (weights + context, compute, free) for name, weights, context, compute, free in uses if name
    ]


def _fits(used: list[tuple[int, int, int]], margin: int) -> bool:
    return all(held + compute + margin <= free for held, compute, free in used)
