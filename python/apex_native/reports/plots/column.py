"""Labels in a column right of the axes, in the order of what they belong to, never overlapping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex_native.reports.plots.canvas import GREY
from apex_native.reports.plots.spread import spread
from apex_native.reports.plots.text import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LABEL_SIZE", "LINE_INCHES", "ColumnEntry", "column_inches", "write_column"]

LABEL_SIZE = 8
LINE_INCHES = 0.155
"""Height of a line of that size with a little air."""

_LEADER_POINTS, _GAP_POINTS = 12, 3


@dataclass(frozen=True, slots=True)
class ColumnEntry:
    """A label for a point in data coordinates; the line to it has this colour."""

    x: float
    y: float
    label: str
    color: str = GREY


def column_inches(n_labels: int) -> float:
    """The height that so many labels need below each other."""
    return n_labels * LINE_INCHES


def write_column(axes: Axes, entries: Sequence[ColumnEntry]) -> None:
    """Narrow the axes and write the labels beside them; the layout must be final."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    widest = max(text_width(entry.label, LABEL_SIZE) for entry in entries)
    room = widest + (_LEADER_POINTS + 2 * _GAP_POINTS) / 72
    frame = axes.get_position()
    axes.set_position(
        (frame.x0, frame.y0, frame.width - room / figure.get_figwidth(), frame.height)
    )
    box = axes.get_window_extent()
    pixels = [axes.transData.transform((entry.x, entry.y)) for entry in entries]
    half = LINE_INCHES * 36 * scale
    heights = spread([float(y) for _, y in pixels], 2 * half, box.y0 + half / 2, box.y1 - half / 2)
    to_axes = axes.transAxes.inverted()
    for entry, start, y_label in zip(entries, pixels, heights, strict=True):
        x0, y0 = to_axes.transform(start)
        x1, y1 = to_axes.transform((box.x1 + _LEADER_POINTS * scale, y_label))
        axes.plot(
            *([x0, x1], [y0, y1]),
            color=entry.color,
            linewidth=0.6,
            transform=axes.transAxes,
            clip_on=False,
            zorder=1.5,
        )
        x2, _ = to_axes.transform((box.x1 + (_LEADER_POINTS + _GAP_POINTS) * scale, y_label))
        axes.text(*(x2, y1, entry.label), transform=axes.transAxes, va="center", size=LABEL_SIZE)
