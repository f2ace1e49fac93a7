"""Does it fit? Asked before hours of loading end in the system's out-of-memory killer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from apex_native.errors import ModelError
from apex_native.evaluation.divergence.shape import LOGITS_BYTES
from apex_native.evaluation.model_source import ModelSource
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.gpu_layers import CONTEXT_BYTES
from apex_native.machine import free_memory
from apex_native.quantization import list_gpus

__all__ = ["gpu_reserve", "require_memory", "spare_gpu_bytes", "spare_side_by_side"]

WORKSPACE_BYTES = 2 * LOGITS_BYTES
"""Logits, KV caches and compute buffers beside the models."""


def require_memory(models: Sequence[ModelSource], *, two_pass: bool) -> None:
    """Raise ModelError where the models that are loaded together exceed the free memory."""
    available = free_memory()
    if available is None or not models:
        return
    sizes = [model.nbytes for model in models]
    needed = (max(sizes) if two_pass else sum(sizes)) + WORKSPACE_BYTES
    if needed <= available:
        return
    what = "the largest model" if two_pass else f"{len(sizes)} models together"
    way_out = "use a machine with more"
    if not two_pass and len(sizes) > 1 and max(sizes) + WORKSPACE_BYTES <= available:
        way_out = "`two_pass=True` loads one at a time, and `check_memory=False` tries anyway"
    raise ModelError(
        f"{what} and what they compute with need about {_gib(needed)} of memory, "
        f"{_gib(available)} are free; {way_out}"
    )


def spare_gpu_bytes(to_come: int) -> int:
    """What the fullest GPU has free once so many bytes of models are spread over all of them."""
    free = [device.free_bytes for device in list_gpus()]
    return max(0, min(free) - to_come // len(free))


def spare_side_by_side(to_come: Sequence[ModelUnderTest]) -> int:
    """The same of GPUs that hold models of their own."""
    held: Counter[str] = Counter()
    for model in to_come:
        held[model.placement.devices[0]] += model.source.nbytes
    left = [gpu.free_bytes - held[f"CUDA{gpu.number}"] for gpu in list_gpus()]
    return max(0, min(left))


def gpu_reserve(first: ModelUnderTest, to_come: Iterable[ModelUnderTest]) -> int:
    """What those loaded later will take of the first one's GPUs beside it."""
    devices = first.placement.devices
    sources = {model.source for model in to_come if model.placement.devices == devices}
    return sum(source.nbytes + CONTEXT_BYTES for source in sources)


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
