"""What a difference between two models means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Comparison", "Verdict"]


class Verdict(StrEnum):
    """Of the first model, against the second."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference between two candidates: the metric of ``first`` minus that of ``second``.

    metric is "kld_mean" or "ln_ppl" (lower is better in both). low and high bound the difference
    with the stated confidence, by a bootstrap over chunks; the verdict is about ``first`` and is
    "not distinguishable" where the interval holds 0.
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
