"""What the differences between candidates mean: verdicts with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from apex_native.reports import numbers
from apex_native.reports.markdown_table import Column, escape, heading, table
from apex_native.reports.models import all_models, task_of, task_title, text_conditions
from apex_native.reports.neighbours import neighbour_comparisons
from apex_native.results import MIN_CHUNKS, Comparison, Results, Verdict

__all__ = ["comparison_section", "task_comparison_section", "too_few"]

METRIC_TITLES = {"kld_mean": "KLD mean", "ln_ppl": "ln PPL"}

_FOLD_FROM = 24
"""Longer tables are folded away; what cannot be told apart is said before them."""


def comparison_section(results: Results) -> list[str]:
    """Paired differences of the text metrics."""
    if not results.comparisons:
        return []
    columns = [
        Column("First", right=False),
        Column("Second", right=False),
        Column("Metric", right=False),
        Column("First − second"),
        Column(f"{_confidence(results.comparisons)} interval"),
        Column("First is", right=False),
    ]
    near = [c for metric in METRIC_TITLES for c in neighbour_comparisons(results, metric)]
    blocks = [
        heading(2, "Differences between candidates", text_conditions(results)),
        escape(_method(results.comparisons)),
    ]
    if len(near) < len(results.comparisons):
        blocks += ["Each candidate against the next smaller one:", table(columns, _rows(near))]
    every = _rows(results.comparisons)
    return [
        *blocks,
        *_alike(results),
        *_folded(table(columns, every), len(every), beside=len(near)),
        *_missing_pairs(results),
    ]


def _rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    return [
        (
            c.first,
            c.second,
            METRIC_TITLES.get(c.metric, c.metric),
            numbers.signed(c.difference),
            numbers.NOT_MEASURED
            if c.low is None
            else f"{numbers.signed(c.low)} to {numbers.signed(c.high)}",
            c.verdict.value,
        )
        for c in comparisons
    ]


def _confidence(comparisons: Sequence[Comparison]) -> str:
    levels = sorted({f"{100 * c.confidence:g} %" for c in comparisons})
    return " / ".join(levels)


def _method(comparisons: Sequence[Comparison]) -> str:
    first = comparisons[0]
    over = "chunks" if first.n_chunks is None else f"{first.n_chunks:,} chunks"
    drawn = "" if first.n_resamples is None else f", {first.n_resamples:,} resamples"
    return (
        f"Both models of a pair scored the same positions; intervals are a paired bootstrap over "
        f"{over}{drawn}. Lower is better in both metrics."
    )


def _alike(results: Results) -> list[str]:
    """One line a metric: the pairs that the data do not tell apart."""
    lines = []
    for metric in dict.fromkeys(c.metric for c in results.comparisons):
        pairs = [c for c in results.comparisons if c.metric == metric]
        alike = [c for c in pairs if c.verdict is Verdict.NOT_DISTINGUISHABLE]
        title = METRIC_TITLES.get(metric, metric)
        few = next((c for c in pairs if c.verdict is Verdict.TOO_FEW), None)
        if few is not None:
            lines.append(escape(f"{title}: {too_few(few)}"))
        if all(c.verdict in (Verdict.TOO_FEW, Verdict.INVALID) for c in pairs):
            continue
        if not alike:
            lines.append(escape(f"{title}: every pair is distinguishable."))
            continue
        named = "; ".join(f"{c.first} and {c.second}" for c in alike[:_FOLD_FROM])
        more = f"; and {len(alike) - _FOLD_FROM} more" if len(alike) > _FOLD_FROM else ""
        count = f"{len(alike)} of {len(pairs)} pairs are not distinguishable"
        lines.append(escape(f"{title}: {count}: {named}{more}."))
    return lines


def too_few(comparison: Comparison) -> str:
    """Why there is no verdict, and how many chunks give one."""
    n = comparison.n_chunks
    return f"No verdict: an interval needs at least {MIN_CHUNKS} chunks, found {n}."


def _folded(text: str, n_rows: int, beside: int = 0) -> list[str]:
    """A long table behind a fold; also a short one, where ``beside`` of its rows stand above."""
    if n_rows < _FOLD_FROM and beside in (0, n_rows):
        return [text]
    return [f"<details><summary>All {n_rows} comparisons</summary>", text, "</details>"]


def _missing_pairs(results: Results) -> list[str]:
    compared = {frozenset((c.first, c.second)) for c in results.comparisons}
    scored = [c.name for c in results.candidates if c.ppl is not None or c.kld_mean is not None]
    wanted = {frozenset((a, b)) for i, a in enumerate(scored) for b in scored[i + 1 :]}
    missing = len(wanted - compared)
    if not missing:
        return []
    sentence = (
        f"{missing} pairs were measured in different runs and not compared; one `apex-native eval` "
        "with all of them compares them."
    )
    return [sentence]


def task_comparison_section(results: Results) -> list[str]:
    """McNemar's tests of the tasks; what is at chance is marked here, too."""
    models = {model.name: model for model in all_models(results)}
    rows = []
    for model in models.values():
        for result in model.tasks:
            for test in result.comparisons:
                theirs = task_of(models[test.other], result.task) if test.other in models else None
                chance = numbers.at_chance(result) or (
                    theirs is not None and numbers.at_chance(theirs)
                )
                rows.append(
                    (
                        task_title(result.task) + (" (chance)" if chance else ""),
                        model.name,
                        test.other,
                        f"{test.n_only_here:,}",
                        f"{test.n_only_there:,}",
                        f"{test.p_value:.3g}",
                        test.verdict.value,
                    )
                )
    if not rows:
        return []
    columns = [
        Column("Task", right=False),
        Column("First", right=False),
        Column("Second", right=False),
        Column("Only first right"),
        Column("Only second right"),
        Column("p (McNemar)"),
        Column("First is", right=False),
    ]
    return [
        heading(3, "Differences in accuracy", "the same items, McNemar's test"),
        *_folded(table(columns, rows), len(rows)),
    ]
