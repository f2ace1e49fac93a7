"""Evaluations as tables for a terminal: the core metrics, and who is better than whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.results import Comparison, Results

__all__ = ["show_comparisons", "show_core_metrics", "show_results"]

MOST_PAIRS = 40
"""More rows than this nobody reads in a terminal; the report has them all."""


def show_results(out: Output, results: Results) -> None:
    """Core metrics and comparisons."""
    show_core_metrics(out, results)
    show_comparisons(out, results)


def show_core_metrics(out: Output, results: Results) -> None:
    """The Core Metrics table and what it was measured on."""
    from apex_native.reports.core_metrics import core_metrics
    from apex_native.reports.models import noise_floor_line, text_conditions

    core = core_metrics(results)
    columns = tuple(Column(column.heading, right=column.right) for column in core.columns)
    notes = [text_conditions(results)]
    if any(column.heading.startswith("KLD") for column in core.columns):
        notes.append(noise_floor_line(results.noise_floor))
    notes += _not_finite(results)
    out.table(Table(columns, core.rows, notes=tuple(notes)))
    out.text()


def show_comparisons(out: Output, results: Results) -> None:
    """Paired differences with their intervals and verdicts."""
    from apex_native.reports.comparisons import METRIC_TITLES
    from apex_native.reports.numbers import signed

    shown = results.comparisons[:MOST_PAIRS]
    if not shown:
        return
    columns = (
        Column("first"),
        Column("second"),
        Column("metric"),
        Column("first - second", right=True),
        Column("95 % interval", right=True),
        Column("first is"),
    )
    rows = [
        (
            c.first,
            c.second,
            METRIC_TITLES.get(c.metric, c.metric),
            signed(c.difference),
            f"{signed(c.low)} to {signed(c.high)}",
            c.verdict.value,
        )
        for c in shown
    ]
    notes = [_method(shown[0])]
    if len(shown) < len(results.comparisons):
        notes.append(f"{len(results.comparisons) - len(shown)} more pairs: see `report`")
    out.table(Table(columns, rows, notes=tuple(notes)))
    out.text()


def _method(comparison: Comparison) -> str:
    return (
        f"Paired bootstrap over {comparison.n_chunks} chunks, {comparison.n_resamples:,} resamples;"
        " lower is better in both metrics."
    )


def _not_finite(results: Results) -> list[str]:
    """A line for each model with positions that could not be averaged."""
    reference = () if results.reference is None else (results.reference,)
    return [
        f"INVALID: {model.name} has {model.n_not_finite:,} positions with NaN or infinite logits; "
        "they are left out of every number"
        for model in (*reference, *results.candidates)
        if model.n_not_finite
    ]
