"""Router agreement with the reference, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from apex_native.reports.models import by_size, text_conditions
from apex_native.reports.plots.canvas import PALETTE, new_figure
from apex_native.reports.plots.column import ColumnEntry, column_inches, write_column
from apex_native.reports.plots.text import model_labels
from apex_native.results import Candidate, Results, RouterLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_router", "missing_router"]

_STYLES = ("-", "--", ":")
_MARKERS = "osD^vPX"

_PANELS: tuple[tuple[str, Callable[[RouterLayer], float | None]], ...] = (
    ("Same set of experts", lambda layer: layer.same_set),
    ("Same first expert", lambda layer: layer.same_top1),
)


def missing_router(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    if not _measured(results):
        return "Router agreement needs a model with experts, evaluated against a reference."
    return None


def _measured(results: Results) -> list[Candidate]:
    return [
        c
        for c in by_size(results.candidates)
        if any(layer.same_set is not None for layer in c.router_agreement)
    ]


def draw_router(results: Results) -> Figure:
    """Two panels: the same top-k set, and the same first expert; one line a candidate."""
    candidates = _measured(results)
    labels = model_labels(results)
    height = max(3.2, column_inches(len(candidates)) + 0.9)
    figure = new_figure(
        *(9.0, 2 * height),
        title="Router agreement with the reference, by layer",
        conditions=text_conditions(results),
        note="Percent of tokens for which a layer's router chose as the reference's did. Names "
        "stand in the order of the last layer.",
    )
    grid = figure.subplots(len(_PANELS), 1, sharex=True)
    drawn = []
    for axes, (title, share) in zip(grid, _PANELS, strict=True):
        entries = [
            entry
            for i, c in enumerate(candidates)
            if (entry := _draw_line(axes, i, labels[c.name], c, share)) is not None
        ]
        axes.set_title(title)
        axes.set_ylabel("Tokens (%)")
        drawn.append((axes, entries))
    grid[-1].set_xlabel("Layer")
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, entries in drawn:
        if entries:
            write_column(axes, entries)
    return figure


def _draw_line(
    axes: Axes,
    index: int,
    label: str,
    candidate: Candidate,
    share: Callable[[RouterLayer], float | None],
) -> ColumnEntry | None:
    """One candidate's line; colour, dash and marker together tell 42 lines apart."""
    found = sorted((layer.layer, share(layer)) for layer in candidate.router_agreement)
    points = [(layer, 100 * value) for layer, value in found if value is not None]
    if not points:
        return None
    color = PALETTE[index % len(PALETTE)]
    axes.plot(
        *zip(*points, strict=True),
        color=color,
        linestyle=_STYLES[index // len(PALETTE) % len(_STYLES)],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=3.5,
        linewidth=1.1,
    )
    return ColumnEntry(points[-1][0], points[-1][1], label, color)
