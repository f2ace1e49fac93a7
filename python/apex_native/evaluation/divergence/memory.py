"""Does it fit? Asked before hours of loading end in the system's out-of-memory killer."""

from __future__ import annotations

from collections.abc import Sequence

from apex_native.errors import ModelError
from apex_native.evaluation.divergence.shape import LOGITS_BYTES
from apex_native.evaluation.divergence.subject import Subject
from apex_native.machine import free_memory

__all__ = ["require_memory"]

WORKSPACE_BYTES = 2 * LOGITS_BYTES
"""Logits, KV caches and compute buffers beside the models."""


def require_memory(subjects: Sequence[Subject], *, two_pass: bool) -> None:
    """Raise ModelError where the models that are loaded together exceed the free memory."""
    available = free_memory()
    if available is None or not subjects:
        return
    sizes = [subject.bytes for subject in subjects]
    needed = (max(sizes) if two_pass else sum(sizes)) + WORKSPACE_BYTES
    if needed <= available:
        return
    what = "the largest model" if two_pass else f"{len(sizes)} models together"
    way_out = "use a machine with more"
    if not two_pass and len(sizes) > 1 and max(sizes) + WORKSPACE_BYTES <= available:
        way_out = "--two-pass loads one model at a time, and --no-memory-check tries anyway"
    raise ModelError(
        f"{what} and what they compute with need about {_gib(needed)} of memory, "
        f"{_gib(available)} are free; {way_out}"
    )


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
