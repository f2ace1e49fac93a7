"""Speed against size: one labelled point a model, one panel a test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from apex_native.reports.kinds import file_kind
from apex_native.reports.models import (
    Model,
    all_models,
    common_speed_settings,
    speed_conditions,
    speed_of,
    tests_of,
)
from apex_native.reports.plots.canvas import new_figure
from apex_native.reports.plots.labels import LabelledPoint, place_labels
from apex_native.reports.plots.scatter import (
    GIB,
    draw_legend,
    draw_points,
    set_limits,
    size_axis,
    square_height,
)
from apex_native.reports.plots.text import clipped, model_labels
from apex_native.results import Results, SpeedTest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_speed", "missing_speed"]

_SHOWN_TESTS = ("tg128", "pp512")


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
    figure = new_figure(
        *(max(9.0, 6.5 * len(panels)), square_height(len(names))),
        title="Speed against size",
        conditions=speed_conditions(common_speed_settings(results)),
        note="Points are medians of the repetitions, bars reach from the slowest to the fastest.",
    )
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn = []
    for axes, (test, runs) in zip(grid, panels, strict=True):
        points = [_speed_point(model, run, labels[model.name]) for model, run in runs]
        draw_points(axes, points, [file_kind(model.name) for model, _ in runs])
        size_axis(axes, points)
        set_limits(axes, "y", [end for p in points for end in (p.low, p.high)])
        axes.set_ylabel("Tokens per second (higher is better)")
        axes.set_title(clipped(test, 24), pad=20)
        draw_legend(axes)
        drawn.append((axes, points))
    for axes, points in drawn:
        place_labels(axes, points)
    return figure


def _speed_point(model: Model, run: SpeedTest, label: str) -> LabelledPoint:
    assert model.bytes is not None
    samples = [s for s in run.samples if math.isfinite(s)] or [run.median]
    low, high = min(*samples, run.median), max(*samples, run.median)
    return LabelledPoint(model.bytes / GIB, run.median, label, low, high)
