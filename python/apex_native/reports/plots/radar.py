"""All metrics of a candidate as one shape; one small panel a candidate, so that shapes are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from apex_native.reports import numbers
from apex_native.reports.models import (
    common_speed_settings,
    speed_of,
    task_names,
    task_of,
    task_title,
    text_conditions,
)
from apex_native.reports.plots.canvas import ALARM, GREY, PALETTE, new_figure
from apex_native.reports.plots.text import model_labels
from apex_native.results import Candidate, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

__all__ = ["draw_radar", "missing_radar"]

_WORST = 0.15
"""Where the worst candidate stands, so that its shape does not vanish in the centre."""

_MIN_AXES = 3
_PANELS_A_LINE = 4
_PANEL_INCHES = 2.7
_PANEL_HEIGHT = 2.4


@dataclass(frozen=True, slots=True)
class _Spoke:
    """One axis of the radar: its name, and every candidate's place from worst to 1."""

    name: str
    places: tuple[float, ...]


def missing_radar(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    if len(results.candidates) < 2:
        return "The radar compares candidates; there are fewer than two."
    if len(_spokes(results)) < _MIN_AXES:
        return f"The radar needs {_MIN_AXES} metrics that every candidate was measured in."
    return None


def _spokes(results: Results) -> list[_Spoke]:
    """The metrics every candidate has; places run from the worst to the best of them."""
    found = []
    for name, values, lower_is_better in _metrics(results):
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) < len(results.candidates):
            continue
        worst, best = (max(known), min(known)) if lower_is_better else (min(known), max(known))
        span = best - worst
        places = tuple(
            1.0 if span == 0 else _WORST + (1 - _WORST) * (value - worst) / span for value in known
        )
        found.append(_Spoke(name, places))
    return found


def _metrics(results: Results) -> list[tuple[str, list[float | None], bool]]:
    candidates = results.candidates
    metrics: list[tuple[str, list[float | None], bool]] = [
        ("size", [c.bytes for c in candidates], True),
        ("PPL", _logs(candidates, lambda c: c.ppl), True),
        ("KLD\nmean", _logs(candidates, lambda c: c.kld_mean), True),
        ("KLD\n99.9 %", _logs(candidates, lambda c: c.kld_p999), True),
        ("same\ntop", [c.same_top for c in candidates], False),
        ("accuracy", _accuracies(results), False),
    ]
    settings = common_speed_settings(results)
    for test in ("pp512", "tg128"):
        runs = [speed_of(c, test, settings) for c in candidates]
        metrics.append((test, [None if run is None else run.median for run in runs], False))
    return metrics


def _logs(
    candidates: Sequence[Candidate], value: Callable[[Candidate], float | None]
) -> list[float | None]:
    found = [value(candidate) for candidate in candidates]
    return [math.log(v) if v is not None and v > 0 else None for v in found]


def _radar_tasks(results: Results) -> list[str]:
    """Tasks that every candidate did."""
    return [
        task
        for task in task_names(results)
        if all(task_of(c, task) is not None for c in results.candidates)
    ]


def _accuracies(results: Results) -> list[float | None]:
    tasks = _radar_tasks(results)
    means: list[float | None] = []
    for candidate in results.candidates:
        scores = [found.score for task in tasks if (found := task_of(candidate, task)) is not None]
        means.append(math.fsum(scores) / len(scores) if scores else None)
    return means


def _has_chance(results: Results, candidate: Candidate) -> bool:
    """True if a task in this candidate's mean accuracy cannot be told from guessing."""
    scores = [task_of(candidate, task) for task in _radar_tasks(results)]
    return any(found is not None and numbers.at_chance(found) for found in scores)


def _note(results: Results) -> str:
    note = (
        "Outward is better on every axis: smaller, lower PPL and KLD, more agreement, faster. The "
        "best candidate of this report stands at the dotted rim and the worst at the inner ring, "
        "so a shape says nothing of how large a difference is. PPL and KLD are spaced by their "
        "logarithms."
    )
    tasks = _radar_tasks(results)
    if tasks:
        note += f" Accuracy is the mean of {', '.join(task_title(task) for task in tasks)}."
    if any(_has_chance(results, candidate) for candidate in results.candidates):
        note += " (chance): a score in that mean cannot be told from guessing."
    return note


def draw_radar(results: Results) -> Figure:
    """One panel a candidate, in the file's order."""
    spokes = _spokes(results)
    labels = model_labels(results)
    columns = min(len(results.candidates), _PANELS_A_LINE)
    lines = -(-len(results.candidates) // columns)
    figure = new_figure(
        *(_PANEL_INCHES * max(columns, 3), _PANEL_HEIGHT * lines),
        title="All metrics together",
        conditions=text_conditions(results),
        note=_note(results),
    )
    for i, candidate in enumerate(results.candidates):
        axes = figure.add_subplot(lines, columns, i + 1, projection="polar")
        _draw_shape(cast("PolarAxes", axes), spokes, i, _has_chance(results, candidate))
        axes.set_title(labels[candidate.name], loc="center", size=9, pad=12)
    return figure


def _draw_shape(axes: PolarAxes, spokes: Sequence[_Spoke], index: int, has_chance: bool) -> None:
    angles = [2 * math.pi * k / len(spokes) for k in range(len(spokes))]
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    places = [spoke.places[index] for spoke in spokes]
    closed = [*angles, angles[0]]
    axes.plot(closed, [*places, places[0]], color=PALETTE[0], linewidth=1.3)
    axes.fill(closed, [*places, places[0]], color=PALETTE[0], alpha=0.25)
    axes.plot(closed, [1.0] * len(closed), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1)
    axes.set_yticks((_WORST, 1.0), ("", ""))
    names = [spoke.name for spoke in spokes]
    if has_chance:
        names = ["accuracy\n(chance)" if name == "accuracy" else name for name in names]
    axes.set_xticks(angles, names, size=7)
    axes.tick_params(axis="x", pad=0)
    for angle, text in zip(angles, axes.get_xticklabels(), strict=True):
        side = math.sin(angle)
        text.set_horizontalalignment(
            "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
        if "(chance)" in text.get_text():
            text.set(color=ALARM, weight="bold")
    axes.spines["polar"].set_visible(False)
