"""What plots of one quantity against size share: points by kind of file, axes, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_native.reports.kinds import FileKind
from apex_native.reports.plots.axes import log_axis
from apex_native.reports.plots.canvas import GREY, PALETTE
from apex_native.reports.plots.column import column_inches
from apex_native.reports.plots.labels import LabelledPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GIB", "draw_legend", "draw_points", "set_limits", "size_axis", "square_height"]

GIB = 1 << 30
_HEIGHT = 5.0
_BESIDES = 1.3
"""Inches of a figure's height that are not the axes' own."""

_LOG_FROM = 4.0
"""A larger ratio of the largest to the smallest is drawn on a logarithmic axis."""

_LOOKS = {
    FileKind.TIER: ("o", PALETTE[0]),
    FileKind.MIX: ("s", PALETTE[1]),
    FileKind.OTHER: ("D", PALETTE[2]),
}
"""Marker and colour of each kind: either alone tells them apart."""


def square_height(n_labels: int) -> float:
    """The height in inches of a figure that has room for so many labels."""
    return max(_HEIGHT, column_inches(n_labels) + _BESIDES)


def draw_points(axes: Axes, points: Sequence[LabelledPoint], kinds: Sequence[FileKind]) -> None:
    """Markers and error bars, in the look of their kinds; the legend knows the kinds that occur."""
    for kind, (marker, color) in _LOOKS.items():
        own = [point for point, its in zip(points, kinds, strict=True) if its is kind]
        if not own:
            continue
        for point in own:
            if point.low < point.high:
                axes.vlines(point.x, point.low, point.high, color=color, linewidth=1.2)
        axes.plot(
            *([p.x for p in own], [p.y for p in own]),
            marker,
            color=color,
            markersize=5.5,
            label=kind.value,
        )


def draw_legend(axes: Axes, *, columns: int = 4) -> None:
    """Above the axes, where no label can be."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        fontsize=8,
        ncols=columns,
        labelcolor="black",
        edgecolor=GREY,
    )


def size_axis(axes: Axes, points: Sequence[LabelledPoint]) -> None:
    """The horizontal axis of every such plot."""
    set_limits(axes, "x", [point.x for point in points])
    axes.set_xlabel("Size (GiB)")


def set_limits(axes: Axes, which: str, values: Sequence[float], *, log: bool = False) -> None:
    """A linear axis with room at both ends, or a logarithmic one for a wide range."""
    low, high = min(values), max(values)
    if low > 0 and (log or high / low > _LOG_FROM):
        log_axis(axes, "x" if which == "x" else "y", values)
        return
    room = 0.14 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low - room, high + room)
    if which == "x":
        axes.set_xlim(*ends)
    else:
        axes.set_ylim(*ends)
