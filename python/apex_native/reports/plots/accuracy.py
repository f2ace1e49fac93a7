"""Accuracy of every model in every task, with Wilson's interval and what guessing would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.reports import numbers
from apex_native.reports.models import Model, all_models, task_names, task_of, task_title
from apex_native.reports.plots.canvas import ALARM, GREY, PALETTE, new_figure
from apex_native.reports.plots.text import clipped, model_labels
from apex_native.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_accuracy", "missing_accuracy"]

_ROW_INCHES = 0.3
_PANEL_INCHES = 2.7
_PANELS_A_LINE = 5
_MOST_TASKS = 10


def missing_accuracy(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    return None if task_names(results) else "Accuracy needs a task that was run."


def draw_accuracy(results: Results) -> Figure:
    """One panel a task, one bar a model, in the file's order."""
    tasks = task_names(results)[:_MOST_TASKS]
    left_out = len(task_names(results)) - len(tasks)
    models = [model for model in all_models(results) if model.tasks]
    labels = model_labels(results)
    columns = min(len(tasks), _PANELS_A_LINE)
    lines = -(-len(tasks) // columns)
    figure = new_figure(
        *(2.6 + _PANEL_INCHES * columns, lines * (_ROW_INCHES * len(models) + 1.0)),
        title="Accuracy",
        conditions=_conditions(results, tasks),
        note="Bars are the 95 % Wilson interval, the dashed line is what guessing gives. A hatched "
        "bar marked “chance” cannot be told from guessing."
        + (f" {left_out} more tasks are in the tables only." if left_out else ""),
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(tasks):
            axes.set_visible(False)
            continue
        _draw_task(axes, models, tasks[i])
        axes.set_yticks(range(len(models)), [labels[model.name] for model in models])
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    return figure


def _conditions(results: Results, tasks: tuple[str, ...]) -> str:
    parts = []
    for task in tasks:
        counts = [found.n for m in all_models(results) if (found := task_of(m, task)) is not None]
        few, many = min(counts), max(counts)
        items = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        parts.append(f"{task_title(task)} {items} items")
    return ", ".join(parts)


def _draw_task(axes: Axes, models: list[Model], task: str) -> None:
    for row, model in enumerate(models):
        found = task_of(model, task)
        if found is None:
            axes.text(2, row, "not measured", va="center", size=7.5, color=GREY)
            continue
        mark = numbers.chance_mark(found)
        score, low, high = (100 * v for v in (found.score, found.low, found.high))
        axes.barh(
            *(row, score),
            height=0.62,
            color="white" if mark else "#a6cbe3",
            edgecolor=ALARM if mark else PALETTE[0],
            hatch="////" if mark else None,
            linewidth=0.8,
        )
        axes.hlines(row, low, high, color="black", linewidth=1.2)
        axes.text(
            *(high + 2, row, numbers.score(found)),
            va="center",
            size=7.5,
            color=ALARM if mark else "black",
            weight="bold" if mark else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
        axes.vlines(
            100 * found.chance, row - 0.5, row + 0.5, color="black", linestyle="--", linewidth=1
        )
    # Room right of 100 % for the number of a perfect score with its mark.
    axes.set_xlim(0, 122)
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.set_title(clipped(task_title(task), 24))
    axes.set_xlabel("Correct (%)")
