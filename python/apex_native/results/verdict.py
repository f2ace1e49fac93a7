"""What a difference between two models means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["MIN_CHUNKS", "Comparison", "Verdict"]

MIN_CHUNKS = 5
"""Fewer chunks say nothing of their own spread: there is no interval and no verdict."""


class Verdict(StrEnum):
    """Of the first model, against the second."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"
    TOO_FEW = "too few chunks"
    """There is no interval, so there is no verdict."""
    INVALID = "invalid"
    """One of the two computed logits that are not finite."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference between two candidates: the metric of ``first`` minus that of ``second``.

    metric is "kld_mean" or "ln_ppl" (lower is better in both). low and high bound the difference
    with the stated confidence, by a bootstrap over chunks; the verdict is about ``first`` and is
    "not distinguishable" where the interval holds 0, "too few chunks" where there is none and
    "invalid" where one of the two has positions with logits that are not finite.
    """

    first: str
    second: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    confidence: float = 0.95
    n_chunks: int | None = None
    n_resamples: int | None = None
    seed: int | None = None
