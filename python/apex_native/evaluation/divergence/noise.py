"""The noise floor: how far the reference is from itself where other batches round differently."""

from __future__ import annotations

__all__ = ["MAX_NOISE_CHUNKS", "NOISE_DESCRIPTION", "NOISE_POSITIONS", "choose_noise_chunks"]

NOISE_POSITIONS = 32
"""Positions at once when the reference is computed again: few enough that llama.cpp takes its code
for small batches, which rounds differently."""

NOISE_DESCRIPTION = "reference again, {size} positions at a time, chunks compared: {n}"

MAX_NOISE_CHUNKS = 8
"""2,040 positions at a context of 512: the mean's error is then small beside the mean."""

SHARE = 10
"""One part in so many of an evaluation's work at most."""

GPU_SHARE = 30
"""The same on a GPU, which small batches cost three times as much."""


def choose_noise_chunks(n_chunks: int, n_models: int, *, on_gpu: bool) -> int:
    """First chunks the reference is computed again for, 0 where a run is too short to afford one.

    A sample: whole chunks, so that rounding adds up along the text as it does in an evaluation.
    """
    return min(MAX_NOISE_CHUNKS, n_chunks, n_chunks * n_models // (GPU_SHARE if on_gpu else SHARE))
