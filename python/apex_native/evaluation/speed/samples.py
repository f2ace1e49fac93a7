"""What is said of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["median_of", "spread_of"]


def median_of(samples: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle; ValueError without samples."""
    if not samples:
        raise ValueError("a median needs at least one sample")
    return statistics.median(samples)


def spread_of(samples: Sequence[float]) -> float:
    """(largest - smallest) / median, a fraction: 0 for a single sample."""
    return (max(samples) - min(samples)) / median_of(samples)
