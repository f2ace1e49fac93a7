"""Which differences a reader asks for first: each file against the next smaller one.

14 candidates make 91 pairs a metric; 13 of them say whether a step in size costs quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from apex_native.reports.models import by_size
from apex_native.results import Comparison, Results, Verdict

__all__ = ["neighbour_comparisons", "turned"]

_TURNED = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}


def neighbour_comparisons(results: Results, metric: str) -> tuple[Comparison, ...]:
    """The comparisons of every candidate with the next smaller one, the largest first.

    Pairs that were measured in different runs have none and are left out.
    """
    known = {(c.first, c.second): c for c in results.comparisons if c.metric == metric}
    found = []
    for first, second in pairwise(_compared(results, metric)):
        comparison = known.get((first, second))
        if comparison is None and (second, first) in known:
            comparison = turned(known[second, first])
        if comparison is not None:
            found.append(comparison)
    return tuple(found)


def _compared(results: Results, metric: str) -> Sequence[str]:
    """Candidates that occur in any comparison of the metric, by size."""
    names = {n for c in results.comparisons if c.metric == metric for n in (c.first, c.second)}
    return [candidate.name for candidate in by_size(results.candidates) if candidate.name in names]


def turned(comparison: Comparison) -> Comparison:
    """The same comparison with first and second exchanged."""

    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return replace(
        comparison,
        first=comparison.second,
        second=comparison.first,
        difference=minus(comparison.difference),
        low=minus(comparison.high),
        high=minus(comparison.low),
        verdict=_TURNED.get(comparison.verdict, comparison.verdict),
    )
