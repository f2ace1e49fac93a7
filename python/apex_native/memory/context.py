"""KV cache, recurrent state and compute buffers of a context, as llama.cpp plans them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native._native import core, forward_log
from apex_native.engine import UBATCH
from apex_native.errors import ModelError
from apex_native.gpu_layers import has_gpu
from apex_native.memory.twin import sparse_twin
from apex_native.types import LONGEST_CONTEXT, GgmlType
from apex_native.weights import WeightSource

__all__ = ["CacheTensor", "ContextMemory", "ContextSettings", "context_memory"]


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What llama-server is told: -c, -ctk, -ctv, -ub and -np."""

    ctx: int = 4096
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    ubatch: int = UBATCH
    sequences: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a context that nothing has."""
        if not 1 <= self.ctx <= LONGEST_CONTEXT:
            raise ValueError(f"ctx: expected 1 to {LONGEST_CONTEXT:,} tokens, found {self.ctx:,}")


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """A tensor of the caches.

    kind: "k" and "v" of a KV cache, "idx_k" of an indexer's, "r" and "s" of a recurrent layer's
    convolution and state. width: values a row; rows: cells, or sequences of a recurrent layer.
    """

    layer: int
    kind: str
    type: GgmlType
    width: int
    rows: int
    nbytes: int

    @property
    def is_state(self) -> bool:
        """Of fixed size, however long the context is."""
        return self.kind in {"r", "s", "ple_r"}


@dataclass(frozen=True, slots=True)
class ContextMemory:
    """Bytes of caches by tensor, and of compute buffers.

    buffers: of a computation where the layers are; host_buffers: beside it on the host, where the
    layers are on a GPU. cells: of the longest KV cache, which is ctx rounded up to 256.
    """

    settings: ContextSettings
    caches: tuple[CacheTensor, ...]
    cache: int
    buffers: int
    host_buffers: int

    @property
    def state(self) -> int:
        """Bytes of recurrent layers, which do not grow with the context."""
        return sum(tensor.nbytes for tensor in self.caches if tensor.is_state)

    @property
    def bytes_per_token(self) -> float:
        """Of all layers whose cache holds the whole context; windows and states add none."""
        cells = max((t.rows for t in self.caches if not t.is_state), default=0)
        growing = [t for t in self.caches if not t.is_state and t.rows == cells]
        return sum(tensor.nbytes for tensor in growing) / cells if cells else 0.0

    def by_layer(self) -> dict[int, int]:
        """Bytes of each layer that has a cache or a state."""
        found: dict[int, int] = {}
        for tensor in self.caches:
            found[tensor.layer] = found.get(tensor.layer, 0) + tensor.nbytes
        return found


def context_memory(source: WeightSource, settings: ContextSettings) -> ContextMemory:
    """Ask llama.cpp what a context of this model would take; nothing of it is allocated.

    The source may be a header without data. Buffers are those of a GPU where this machine has one,
    else of a CPU, whose graph is about the same. Raises ModelError where llama.cpp refuses the
    model or the settings, ValueError for a type that no cache can have, OutputError without a place
    for a copy of the header.
    """
    wanted: dict[str, Any] = {
        "n_ctx": settings.ctx,
        "n_batch": settings.ubatch,
        "n_seq_max": settings.sequences,
        "type_k": settings.type_k.id,
        "type_v": settings.type_v.id,
        "swa_full": False,  # llama-server's default
    }
    with sparse_twin(source) as path, _named_after(source, path):
        layers = -1 if has_gpu() else 0
        model = core.Model(str(path), no_alloc=True, repack=False, n_gpu_layers=layers)
        uses = model.memory_use(**wanted, n_outputs_max=settings.sequences)
        caches = model.cache_tensors(**wanted)
        del model
    forward_log()
    compute = [(name, buffers) for name, _, _, buffers, _ in uses]
    host = sum(buffers for name, buffers in compute if not name)
    gpus = [buffers for name, buffers in compute if name]
    return ContextMemory(
        settings,
        tuple(
            CacheTensor(layer, kind, GgmlType.from_id(type), width, rows, nbytes)
            for layer, kind, type, width, rows, nbytes in caches
        ),
        cache=sum(context for _, _, context, _, _ in uses),
        buffers=max(gpus) if gpus else host,
        host_buffers=host if gpus else 0,
    )


@contextmanager
def _named_after(source: WeightSource, twin: Path) -> Iterator[None]:
    """Errors speak of the source: nobody knows its twin."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace(str(twin), str(source.shard_paths[0]))) from None
