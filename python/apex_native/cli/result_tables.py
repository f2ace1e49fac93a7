"""Evaluations as tables for a terminal: the core metrics, and which steps in size cost quality."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table
from apex_native.printable import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apex_native.reports.labels import ShortNames
    from apex_native.results import Comparison, Results

__all__ = ["UNCLEAR", "show_comparisons", "show_core_metrics", "show_results"]

_KEPT = ("Quantization", "Size (GiB)", "KLD mean")
_DROP = ("PPL", "KLD 99.9 %", "KV cache", "bpw", "Same top (%)", "KLD max")
"""Columns by importance: the last ones go first, and tasks and speeds, which have tables of their
own, before them."""


UNCLEAR = "unclear"
"""The short word for Verdict.NOT_DISTINGUISHABLE in a table."""


def show_results(out: Output, results: Results) -> None:
    """Core metrics, and each candidate against the next smaller one."""
    show_core_metrics(out, results)
    show_comparisons(out, results)


def show_core_metrics(out: Output, results: Results) -> None:
    """The Core Metrics table and what it was measured on; the largest model first."""
    from apex_native.reports.core_metrics import core_metrics
    from apex_native.reports.labels import short_names
    from apex_native.reports.models import noise_floor_line, text_conditions

    core = core_metrics(results)
    names = short_names(results)
    columns = tuple(
        Column(
            column.heading,
            right=column.right,
            wraps=column.heading in _KEPT,
            drop=_drop(column.heading),
        )
        for column in core.columns
    )
    rows = [(names[row[0]], *row[1:]) for row in core.rows]
    notes = [text_conditions(results)]
    if any(column.heading.startswith("KLD") for column in core.columns):
        notes.append(noise_floor_line(results.noise_floor))
    notes += [names.note] if names.note else []
    notes += _not_finite(results)
    out.table(Table(columns, rows, notes=tuple(notes)))
    out.text()


def _drop(heading: str) -> int:
    if heading in _KEPT:
        return 0
    return 1 + (_DROP.index(heading) if heading in _DROP else len(_DROP))


def show_comparisons(out: Output, results: Results, metrics: Sequence[str] = ()) -> None:
    """A table a metric (default: all): is each candidate's next smaller neighbour as good as it?"""
    from apex_native.reports.comparisons import METRIC_TITLES, too_few
    from apex_native.reports.labels import short_names
    from apex_native.reports.neighbours import neighbour_comparisons
    from apex_native.results import Verdict

    names = short_names(results)
    without: list[Comparison] = []
    for metric in metrics or METRIC_TITLES:
        shown = neighbour_comparisons(results, metric)
        if all(c.verdict is Verdict.TOO_FEW for c in shown):
            without += shown
        else:
            n_pairs = sum(c.metric == metric for c in results.comparisons)
            out.table(_comparison_table(METRIC_TITLES[metric], shown, names, n_pairs))
            out.text()
    if without:
        out.text(too_few(without[0]))
        out.text()


def _comparison_table(
    title: str, shown: Sequence[Comparison], names: ShortNames, n_pairs: int
) -> Table:
    from apex_native.reports.comparisons import too_few
    from apex_native.results import Verdict

    columns = (
        Column("model", wraps=True),
        Column("is"),
        Column("than", wraps=True),
        Column("difference", right=True, drop=1),
        Column("95 % interval", right=True, wraps=True, drop=2),
    )
    rows = [
        (
            names[c.first],
            UNCLEAR if c.verdict is Verdict.NOT_DISTINGUISHABLE else c.verdict.value,
            names[c.second],
            *_with_interval(c.difference, c.low, c.high),
        )
        for c in shown
    ]
    first = shown[0]
    notes = [
        f"Paired bootstrap over {counted(first.n_chunks or 0, 'chunk')}, "
        f"{first.n_resamples:,} resamples."
        if first.n_resamples is not None
        else "Paired differences."
    ]
    if any(row[1] == UNCLEAR for row in rows):
        notes.append(f"{UNCLEAR}: the interval holds 0, the text does not tell the two apart.")
    if any(c.verdict is Verdict.TOO_FEW for c in shown):
        notes.append(too_few(first))
    if n_pairs > len(shown):
        notes.append("`report` and --json have every pair.")
    heading = f"{title}, lower is better: each model against the next smaller one"
    return Table(columns, rows, title=heading, notes=(" ".join(notes),))


_MOST_DECIMALS = 6


def _with_interval(
    difference: float | None, low: float | None, high: float | None
) -> tuple[str, str]:
    """A difference and its interval with the same decimals: three digits of the largest."""
    if difference is None:
        return "—", "—"
    known = [abs(v) for v in (difference, low, high) if v is not None and math.isfinite(v)]
    largest = max(known, default=0.0)
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 2
    pattern = f"+.{decimals}f" if decimals <= _MOST_DECIMALS else "+.2e"
    interval = "—" if low is None or high is None else f"{low:{pattern}} to {high:{pattern}}"
    return f"{difference:{pattern}}", interval


def _not_finite(results: Results) -> list[str]:
    """A line for each model with positions that could not be averaged."""
    from apex_native.reports.numbers import not_finite

    reference = () if results.reference is None else (results.reference,)
    return [
        f"INVALID: {model.name}: {not_finite(model)}; they are left out of every number"
        for model in (*reference, *results.candidates)
        if model.n_not_finite
    ]
