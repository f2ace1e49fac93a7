"""What candidates gain against the first of them, text by text: the mean, its interval, the tail.

Two files of one size differ by a few percent, and not by the same on chat, code and prose: a mean
over all of them hides which text pays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_native.reports.neighbours import turned
from apex_native.results import Candidate, Comparison, Results

__all__ = ["TextGain", "text_gains"]


@dataclass(frozen=True, slots=True)
class TextGain:
    """One candidate on one text; against: the candidate it is compared with, None in its own row.

    kld_mean and kld_p999 (the 99.9 % quantile over positions) are in nats. change, low, high and
    change_p999 are shares of the other's: -0.1 is a tenth less. low and high bound change with 95 %
    confidence, a paired bootstrap over n_chunks chunks. None: not measured, as for too few chunks.
    """

    text: str
    n_chunks: int
    candidate: str
    against: str | None
    kld_mean: float | None
    kld_p999: float | None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    change_p999: float | None = None


def text_gains(found: Mapping[str, Results]) -> tuple[TextGain, ...]:
    """A row for each text and candidate, in the order given; the first candidate comes first.

    found: evaluations of the same candidates by the name of their text. Candidates go by their
    names, so that results that were added to an older file are compared with its first one.
    """
    return tuple(
        _gain(name, results, candidate)
        for name, results in found.items()
        for candidate in results.candidates
    )


def _gain(text: str, results: Results, candidate: Candidate) -> TextGain:
    first = results.candidates[0]
    n_chunks = 0 if results.data is None else results.data.n_chunks
    if candidate is first:
        return TextGain(text, n_chunks, first.name, None, first.kld_mean, first.kld_p999)
    paired = _paired(results, candidate.name, first.name)
    return TextGain(
        text,
        n_chunks,
        candidate.name,
        first.name,
        candidate.kld_mean,
        candidate.kld_p999,
        _change(candidate.kld_mean, first.kld_mean),
        _share(paired.low if paired else None, first.kld_mean),
        _share(paired.high if paired else None, first.kld_mean),
        _change(candidate.kld_p999, first.kld_p999),
    )


def _paired(results: Results, name: str, other: str) -> Comparison | None:
    """The difference name - other in mean KLD; None where the two were measured in two runs."""
    for comparison in results.comparisons:
        if comparison.metric == "kld_mean":
            if (comparison.first, comparison.second) == (name, other):
                return comparison
            if (comparison.first, comparison.second) == (other, name):
                return turned(comparison)
    return None


def _change(value: float | None, of: float | None) -> float | None:
    return None if value is None else _share(value - (of or 0), of)


def _share(difference: float | None, of: float | None) -> float | None:
    return None if difference is None or not of else difference / of
