"""Does a file fit, and how many layers' experts must stay on the host so that it does?"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from apex_native.memory.context import ContextMemory, ContextSettings
from apex_native.memory.room import Room
from apex_native.memory.weights import PlacedWeights, SizedWeight, place_weights
from apex_native.types import GgmlType

__all__ = ["CUDA_CONTEXT_BYTES", "Fit", "Need", "fit_file", "memory_need", "server_command"]

CUDA_CONTEXT_BYTES = 750 << 20
"""What CUDA, cuBLAS and loaded kernels take of a GPU beside llama.cpp's buffers: the most that
bench/fit_vs_allocations.py measured, on an H200 with driver 580 (523 to 526 MiB of CUDA's context,
100 to 227 beside it). A card with fewer multiprocessors takes less."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes where its layers are, part by part, and of the host beside it.

    staging: room into which experts that stay on the host are copied for a long prompt.
    """

    weights: int
    cache: int
    buffers: int
    mmproj: int = 0
    cuda_context: int = 0
    staging: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """Where the layers are."""
        parts = (self.weights, self.cache, self.buffers, self.mmproj)
        return sum(parts) + self.cuda_context + self.staging


@dataclass(frozen=True, slots=True)
class Fit:
    """fits: with every layer there. n_cpu_moe: the fewest layers whose experts must stay on the
    host so that the rest fits; 0 where all does, None where nothing helps. need: as placed so.
    """

    fits: bool
    n_cpu_moe: int | None
    need: Need


def memory_need(
    weights: PlacedWeights,
    context: ContextMemory,
    *,
    on_gpu: bool,
    mmproj: int = 0,
    staging: int = 0,
) -> Need:
    """What a model takes of a GPU that has all its layers, or of the host alone."""
    if not on_gpu:
        # Of tied embeddings the host has one copy.
        return Need(weights.host + weights.gpu, context.cache, context.buffers, mmproj)
    return Need(
        weights.gpu,
        context.cache,
        context.buffers,
        mmproj,
        CUDA_CONTEXT_BYTES,
        staging,
        host=weights.host + context.host_buffers,
    )


def fit_file(
    tensors: Iterable[SizedWeight],
    context: ContextMemory,
    room: Room,
    *,
    mmproj: int = 0,
    skip: frozenset[str] = frozenset(),
) -> Fit:
    """Whether a file of these tensors fits into room, and with how many layers' experts elsewhere.

    mmproj: bytes of a projector's tensors. skip: tensors that llama.cpp does not load.
    """
    tensors = list(tensors)
    placed = place_weights(tensors, skip=skip)
    if not room.on_gpu:
        tied = all(tensor.name != "output.weight" for tensor in tensors)
        twice = next((t.nbytes for t in tensors if t.name == "token_embd.weight"), 0) if tied else 0
        once = replace(placed, gpu=placed.gpu - twice)
        need = memory_need(once, context, on_gpu=False, mmproj=mmproj)
        fits = need.total <= room.nbytes
        return Fit(fits, 0 if fits else None, need)
    whole = memory_need(placed, context, on_gpu=True, mmproj=mmproj)
    if whole.total <= room.nbytes:
        return Fit(True, 0, whole)
    need = whole
    for layer, _ in placed.experts:
        moved = placed.with_experts_on_host(layer + 1)
        need = memory_need(moved, context, on_gpu=True, mmproj=mmproj, staging=placed.staging)
        if need.total <= room.nbytes:
            return Fit(False, layer + 1, need)
    return Fit(False, None, need)


def server_command(
    file: str, settings: ContextSettings, fit: Fit, *, on_gpu: bool = True, mmproj: str = ""
) -> str:
    """The llama-server command line for a file that fits so.

    A comment says where no stock llama-server has the cache's types.
    """
    parts = ["llama-server", "-m", shlex.quote(file), "-c", str(settings.ctx)]
    parts += ["-np", str(settings.sequences)]
    for option, type in (("-ctk", settings.type_k), ("-ctv", settings.type_v)):
        if type is not GgmlType.F16:
            parts += [option, type.name.lower()]
    if on_gpu:
        parts += ["-ngl", "99"]
    if fit.n_cpu_moe:
        parts += ["--n-cpu-moe", str(fit.n_cpu_moe)]
    if mmproj:
        parts += ["--mmproj", shlex.quote(mmproj)]
    foreign = {t.name.lower() for t in (settings.type_k, settings.type_v) if t.is_cache_only}
    if foreign:
        parts.append(f"# a fork's: stock llama-server has no {' or '.join(sorted(foreign))}")
    return " ".join(parts)
