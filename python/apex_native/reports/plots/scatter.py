"""PPL against size, and speed against size: one labelled point a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_native.reports.models import (
    Model,
    all_models,
    common_speed_settings,
    speed_conditions,
    speed_of,
    tests_of,
    text_conditions,
)
from apex_native.reports.plots.axes import log_axis
from apex_native.reports.plots.canvas import GREY, PALETTE, new_figure
from apex_native.reports.plots.column import column_inches
from apex_native.reports.plots.labels import LabelledPoint, place_labels
from apex_native.reports.plots.text import clipped, model_labels
from apex_native.results import Results, SpeedTest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw_perplexity",
    "draw_speed",
    "missing_perplexity",
    "missing_speed",
]

_GIB = 1 << 30
_HEIGHT = 5.0
_BESIDES = 1.3
"""Inches of a figure's height that are not the axes' own."""

_LOG_FROM = 4.0
"""A larger ratio of the largest to the smallest is drawn on a logarithmic axis."""

_SHOWN_TESTS = ("tg128", "pp512")


def missing_perplexity(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    n = len(_with_perplexity(results))
    if n < 2:
        return (
            "Perplexity against size needs two candidates with size and perplexity; "
            f"there {'is' if n == 1 else 'are'} {n or 'none'}."
        )
    return None


def _with_perplexity(results: Results) -> list[Model]:
    return [c for c in results.candidates if c.bytes and c.ppl is not None and c.ppl > 0]


def draw_perplexity(results: Results) -> Figure:
    """Perplexity with its standard error against GiB; the reference is a line."""
    models = _with_perplexity(results)
    labels = model_labels(results)
    height = max(_HEIGHT, column_inches(len(models)) + _BESIDES)
    figure = new_figure(
        *(9.0, height),
        title="Perplexity against size",
        conditions=text_conditions(results),
        note="Bars are one standard error of each perplexity by itself; models were scored on the "
        "same text, so differences are known better than the bars suggest (see the verdicts).",
    )
    axes = figure.add_subplot()
    points = [_perplexity_point(model, labels[model.name]) for model in models]
    _draw_points(axes, points)
    reference = results.reference
    level = None if reference is None else reference.ppl
    values = [end for p in points for end in (p.low, p.high)] + ([level] if level else [])
    _limits(axes, "x", [p.x for p in points])
    _limits(axes, "y", values)
    axes.set_xlabel("Size (GiB)")
    axes.set_ylabel("Perplexity (lower is better)")
    lines = []
    if reference is not None and level is not None and level > 0:
        _draw_reference(axes, labels[reference.name], level)
        lines.append(level)
    place_labels(axes, points, horizontal_lines=lines)
    return figure


def _perplexity_point(model: Model, label: str) -> LabelledPoint:
    assert model.bytes is not None
    assert model.ppl is not None
    error = model.ppl_se or 0.0
    low = model.ppl - error if model.ppl > error else model.ppl
    return LabelledPoint(model.bytes / _GIB, model.ppl, label, low, model.ppl + error)


def _draw_points(axes: Axes, points: Sequence[LabelledPoint]) -> None:
    for point in points:
        axes.vlines(point.x, point.low, point.high, color=PALETTE[0], linewidth=1.2)
    axes.plot([p.x for p in points], [p.y for p in points], "o", color=PALETTE[0])


def _limits(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A linear axis with room at both ends, or a logarithmic one for a wide range."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_FROM:
        log_axis(axes, "x" if which == "x" else "y", values)
        return
    room = 0.14 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low - room, high + room)
    if which == "x":
        axes.set_xlim(*ends)
    else:
        axes.set_ylim(*ends)


def _draw_reference(axes: Axes, label: str, level: float) -> None:
    """A dashed line, named above the axes where no label can be."""
    axes.axhline(
        level,
        color=GREY,
        linestyle="--",
        linewidth=1,
        label=f"{label} (reference): {level:.4g}",
    )
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=8)


def missing_speed(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    if not _speed_panels(results):
        return "Size against speed needs two models of known size with the same speed test."
    return None


def _speed_panels(results: Results) -> list[tuple[str, list[tuple[Model, SpeedTest]]]]:
    """The tests that at least two models have, the published ones or else the first two."""
    settings = common_speed_settings(results)
    models = [model for model in all_models(results) if model.bytes]
    panels = []
    for test in tests_of(models, settings):
        runs = [(m, run) for m in models if (run := speed_of(m, test, settings)) is not None]
        if len(runs) >= 2:
            panels.append((test, runs))
    shown = [panel for panel in panels if panel[0] in _SHOWN_TESTS] or panels[:2]
    return sorted(shown, key=lambda panel: panel[0] != _SHOWN_TESTS[0])


def draw_speed(results: Results) -> Figure:
    """Tokens per second against GiB; one panel a test."""
    panels = _speed_panels(results)
    names = list(dict.fromkeys(m.name for _, runs in panels for m, _ in runs))
    labels = model_labels(results)
    height = max(_HEIGHT, column_inches(len(names)) + _BESIDES)
    figure = new_figure(
        *(max(9.0, 6.5 * len(panels)), height),
        title="Speed against size",
        conditions=speed_conditions(common_speed_settings(results)),
        note="Points are medians of the repetitions, bars reach from the slowest to the fastest.",
    )
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn = []
    for axes, (test, runs) in zip(grid, panels, strict=True):
        points = [_speed_point(model, run, labels[model.name]) for model, run in runs]
        _draw_points(axes, points)
        _limits(axes, "x", [p.x for p in points])
        _limits(axes, "y", [end for p in points for end in (p.low, p.high)])
        axes.set_xlabel("Size (GiB)")
        axes.set_ylabel("Tokens per second (higher is better)")
        axes.set_title(clipped(test, 24))
        drawn.append((axes, points))
    for axes, points in drawn:
        place_labels(axes, points)
    return figure


def _speed_point(model: Model, run: SpeedTest, label: str) -> LabelledPoint:
    assert model.bytes is not None
    samples = [s for s in run.samples if math.isfinite(s)] or [run.median]
    low, high = min(*samples, run.median), max(*samples, run.median)
    return LabelledPoint(model.bytes / _GIB, run.median, label, low, high)
