"""Is the result better than the fixed recipes? Ratios of KLDs with paired intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apex_native.allocation.session import Measurement

__all__ = ["Ratio", "kld_ratio", "log_ppl_difference", "standard_error"]

CONFIDENCE = 0.95
LOOKS = (0.95, 0.97235, 0.98098)
"""The confidence of each interval where 1, 2 or 3 are looked at, each on three times the text of
the one before and all of that: all of them together hold with `CONFIDENCE` (repeated confidence
intervals, Jennison and Turnbull 1989, with Pocock's boundary, the same at every look)."""

N_RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Ratio:
    """One model's mean over another's on the same chunks, with its 95 % interval."""

    value: float
    low: float
    high: float


def kld_ratio(ours: Measurement, theirs: Measurement, n_looks: int = 1) -> Ratio:
    """Mean KLD over mean KLD; a percentile bootstrap that draws the same chunks for both.

    n_looks: at how many growing parts of the text the interval is, or may be, looked at; 1 to 3.
    """
    a, b = ours.kld, theirs.kld
    draws = _draws(len(a))
    ratios = (draws @ a) / np.maximum(draws @ b, 1e-300)
    low, high = np.quantile(ratios, _tails(LOOKS[n_looks - 1]))
    return Ratio(float(a.mean() / max(b.mean(), 1e-300)), float(low), float(high))


def log_ppl_difference(ours: Measurement, theirs: Measurement) -> Ratio:
    """Ln PPL of one less the other's, with its interval."""
    difference = ours.nll - theirs.nll
    means = _draws(len(difference)) @ difference / len(difference)
    low, high = np.quantile(means, _tails(CONFIDENCE))
    return Ratio(float(difference.mean()), float(low), float(high))


def standard_error(measured: Measurement) -> float:
    """Of the mean KLD, over chunks."""
    kld = measured.kld
    return float(kld.std(ddof=1) / np.sqrt(len(kld))) if len(kld) > 1 else float("nan")


def _draws(n: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    return rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(float)


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
