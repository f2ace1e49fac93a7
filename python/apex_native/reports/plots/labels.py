"""Labels beside points that never lie on a point, on another label or outside the axes.

Each label is tried at growing distances in sixteen directions. Where one finds no place, all move
into a column right of the axes, sorted by height, which always has room: the figure is as high as
its labels need (`column.column_inches`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from apex_native.reports.plots.canvas import GREY
from apex_native.reports.plots.column import LABEL_SIZE, LINE_INCHES, ColumnEntry, write_column
from apex_native.reports.plots.text import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "LabelledPoint", "place_labels"]

_DISTANCES = (7, 10, 14, 19, 25, 32, 40, 50, 62, 76, 92, 110, 130)
"""Points between a marker and the nearest edge of its label."""
_LEADER_FROM = 12
"""From this distance on a thin line says which point a label belongs to."""
_DIRECTIONS = 16
_ATTEMPTS = 24
_MOST_SEARCHED = 24
"""More labels than that are in each other's way even where each has a place."""
_HALF_LINE = 2.0
"""Pixels that a drawn line keeps free on both sides."""
_CLEARANCES = (11, 5)
"""Points between a label and the markers of others: first what cannot be misread, then less."""


Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def grown(self, by: float) -> Box:
        """With a margin all around."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The box's own point that is nearest to another."""
        x, y = point
        return min(max(x, self.x0), self.x1), min(max(y, self.y0), self.y1)

    def distance(self, point: tuple[float, float]) -> float:
        """From a point to the nearest of the box; 0 inside."""
        return math.dist(point, self.nearest(point))

    def overlaps(self, other: Box) -> bool:
        """True if both share an area."""
        return (
            self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1
        )

    def inside(self, other: Box) -> bool:
        """True if no part is outside of other."""
        return (
            self.x0 >= other.x0
            and self.y0 >= other.y0
            and self.x1 <= other.x1
            and self.y1 <= other.y1
        )

    def crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """True if a straight line runs through the box (Liang and Barsky's clipping)."""
        enter, leave = 0.0, 1.0
        for low, high, a, b in (
            (self.x0, self.x1, start[0], end[0]),
            (self.y0, self.y1, start[1], end[1]),
        ):
            if a == b:
                if not low < a < high:
                    return False
                continue
            first, second = sorted(((low - a) / (b - a), (high - a) / (b - a)))
            enter, leave = max(enter, first), min(leave, second)
        return enter < leave


@dataclass(frozen=True, slots=True)
class LabelledPoint:
    """A point in data coordinates with its label; low and high are the ends of its error bar."""

    x: float
    y: float
    label: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a label's lower left corner goes, and the line that leads to it, if any; pixels."""

    box: Box
    leader: Line | None


def place_labels(
    axes: Axes,
    points: Sequence[LabelledPoint],
    *,
    horizontal_lines: Sequence[float] = (),
    path: Sequence[tuple[float, float]] = (),
) -> None:
    """Write the labels; limits and layout of the axes must be final but for the right margin.

    No label lies on a horizontal line at one of these heights, nor on a path of level and upright
    lines between these corners.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on nothing moves
    places = _greedy(_Search(axes, points, [*_levels(axes, horizontal_lines), *_path(axes, path)]))
    if places is None:
        write_column(axes, [ColumnEntry(p.x, p.y, p.label) for p in points])
        return
    for point, place in zip(points, places, strict=True):
        _write(axes, point.label, place)


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    px, py = axes.transData.transform((x, y))
    return float(px), float(py)


def _per_point(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(figure.dpi) / 72


def _label_size(axes: Axes, label: str) -> tuple[float, float]:
    scale = _per_point(axes)
    return (text_width(label, LABEL_SIZE) * 72 + 2) * scale, LINE_INCHES * 72 * scale


def _obstacles(axes: Axes, points: Sequence[LabelledPoint]) -> list[Box]:
    reach = 4.5 * _per_point(axes)
    boxes = []
    for point in points:
        x, y = _pixels(axes, point.x, point.y)
        boxes.append(Box(x - reach, y - reach, x + reach, y + reach))
        _, low = _pixels(axes, point.x, point.low)
        _, high = _pixels(axes, point.x, point.high)
        boxes.append(Box(x - reach / 2, low, x + reach / 2, high))
    return boxes


def _levels(axes: Axes, heights: Sequence[float]) -> list[Box]:
    frame = axes.get_window_extent()
    middle = axes.transData.inverted().transform(((frame.x0 + frame.x1) / 2, frame.y0))[0]
    levels = [_pixels(axes, middle, height)[1] for height in heights]
    return [Box(frame.x0, y - _HALF_LINE, frame.x1, y + _HALF_LINE) for y in levels]


def _path(axes: Axes, corners: Sequence[tuple[float, float]]) -> list[Box]:
    places = [_pixels(axes, *corner) for corner in corners]
    return [
        Box(
            *(min(x0, x1) - _HALF_LINE, min(y0, y1) - _HALF_LINE),
            *(max(x0, x1) + _HALF_LINE, max(y0, y1) + _HALF_LINE),
        )
        for (x0, y0), (x1, y1) in pairwise(places)
    ]


def _greedy(search: _Search) -> list[_Place] | None:
    """A place for every label, or None if none was found.

    Crowded points choose first; one that finds nothing left is moved to the front, and all choose
    again.
    """
    if len(search.centres) > _MOST_SEARCHED:
        return None
    for clearance in _CLEARANCES:
        places = _choose(search, clearance * search.per_point)
        if places is not None:
            return places
    return None


def _choose(search: _Search, clearance: float) -> list[_Place] | None:
    order = _crowded_first(search.centres)
    for _ in range(_ATTEMPTS):
        places: dict[int, _Place] = {}
        search.clear()
        for i in order:
            free = (p for p in _candidates(search, i) if search.is_free(i, p, clearance))
            place = next(free, None)
            if place is None:
                order.remove(i)
                order.insert(0, i)
                break
            places[i] = place
            search.take(place)
        else:
            return [places[i] for i in range(len(order))]
    return None


_LINE_APART = 1.5
"""Points between a label and the line that leads to another: else it looks like its own."""


class _Search:
    """What is taken already: markers, error bars, texts, labels and the lines that lead to them."""

    def __init__(
        self, axes: Axes, points: Sequence[LabelledPoint], lines: Sequence[Box] = ()
    ) -> None:
        frame = axes.get_window_extent()
        self.bounds = Box(frame.x0, frame.y0, frame.x1, frame.y1)
        self.per_point = _per_point(axes)
        self.centres = [_pixels(axes, point.x, point.y) for point in points]
        self.sizes = [_label_size(axes, point.label) for point in points]
        self._fixed = [*_obstacles(axes, points), *lines]
        self.clear()

    def clear(self) -> None:
        """Give back what `take` took."""
        self._boxes = list(self._fixed)
        self._labels: list[Box] = []
        self._leaders: list[Line] = []

    def is_free(self, i: int, place: _Place, clearance: float) -> bool:
        """True if nothing is in the way of a point's label and its line.

        The label keeps clearance, in pixels, from the markers of other points.
        """
        box, leader = place.box, place.leader
        if not box.inside(self.bounds) or any(box.overlaps(taken) for taken in self._boxes):
            return False
        apart = _LINE_APART * self.per_point
        if any(box.grown(apart).crossed_by(*line) for line in self._leaders):
            return False
        if any(box.distance(centre) < clearance for centre in self._others(i)):
            return False
        if leader is None:
            return True
        return not (
            any(label.grown(apart).crossed_by(*leader) for label in self._labels)
            or any(_cross(leader, line) for line in self._leaders)
        )

    def take(self, place: _Place) -> None:
        """Put a label there."""
        self._boxes.append(place.box)
        self._labels.append(place.box)
        if place.leader is not None:
            self._leaders.append(place.leader)

    def is_nearest(self, i: int, box: Box) -> bool:
        """True if no other marker is nearly as close to a label as its own."""
        own = box.distance(self.centres[i])
        return all(box.distance(centre) > 1.6 * own for centre in self._others(i))

    def _others(self, i: int) -> list[tuple[float, float]]:
        """Markers of other points, those at the same place left out."""
        own = self.centres[i]
        return [centre for centre in self.centres if centre != own]


def _cross(first: Line, second: Line) -> bool:
    """True if two straight lines between points cross."""

    def side(line: Line, point: tuple[float, float]) -> float:
        (x0, y0), (x1, y1) = line
        return (x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0)

    return (
        side(first, second[0]) * side(first, second[1]) < 0
        and side(second, first[0]) * side(second, first[1]) < 0
    )


def _crowded_first(centres: Sequence[tuple[float, float]]) -> list[int]:
    def crowd(i: int) -> float:
        return -sum(1 / (1 + math.dist(centres[i], centre)) for centre in centres)

    return sorted(range(len(centres)), key=lambda i: (crowd(i), i))


def _candidates(search: _Search, i: int) -> Iterator[_Place]:
    """Places around a point, near ones first, right and left before above and below.

    A place that could be taken for another point's, or is far, has a line that leads to it.
    """
    x, y = search.centres[i]
    width, height = search.sizes[i]
    for distance in _DISTANCES:
        reach = distance * search.per_point
        for turn in _TURNS:
            cos, sin = math.cos(_angle(turn)), math.sin(_angle(turn))
            # The box's centre is as far away as its extent in that direction asks for.
            cx = x + cos * (reach + width / 2)
            cy = y + sin * (reach + height / 2)
            box = Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            leader = None
            if distance >= _LEADER_FROM or not search.is_nearest(i, box):
                leader = ((x, y), box.nearest((x, y)))
            yield _Place(box, leader)


def _angle(turn: int) -> float:
    return 2 * math.pi * turn / _DIRECTIONS


_TURNS = sorted(
    range(_DIRECTIONS), key=lambda i: (round(abs(math.sin(_angle(i))), 9), -math.cos(_angle(i)))
)
"""Level directions first, the right before the left."""


def _write(axes: Axes, label: str, place: _Place) -> None:
    to_axes = axes.transAxes.inverted()
    if place.leader is not None:
        (x0, y0), (x1, y1) = (to_axes.transform(end) for end in place.leader)
        axes.plot(
            [x0, x1], [y0, y1], color=GREY, linewidth=0.5, transform=axes.transAxes, zorder=1.5
        )
    x, y = to_axes.transform((place.box.x0, (place.box.y0 + place.box.y1) / 2))
    axes.text(x, y, f" {label}".strip(), transform=axes.transAxes, va="center", size=LABEL_SIZE)
