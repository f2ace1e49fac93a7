"""What a reader would complain about in a plot, found by matplotlib's own bounding boxes."""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

TOUCHING = 1.0
"""Pixels that two boxes may share: extents are rounded outwards to whole pixels."""


@dataclass(frozen=True)
class Shown:
    """A visible text and its box in pixels."""

    text: str
    box: Any


def shown_texts(figure: Any) -> list[Shown]:
    """Every text that is drawn: titles, tick labels, legends, annotations."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    not_drawn = _ticks_not_drawn(figure)
    return [
        Shown(text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in not_drawn
        if text.axes is None or text.axes.get_visible()
    ]


def _ticks_not_drawn(figure: Any) -> set[int]:
    """Labels of ticks that an axis keeps in reserve or that lie outside its view."""
    from matplotlib.axis import Tick

    labels = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            places = axis.get_majorticklocs()
            for tick, place in zip(axis.get_major_ticks(), places, strict=True):
                if low <= place <= high:
                    labels -= {id(tick.label1), id(tick.label2)}
    return labels


def overlapping(texts: list[Shown]) -> list[tuple[str, str]]:
    """Pairs of texts that share more than an edge."""
    pairs = []
    for first, second in itertools.combinations(texts, 2):
        a, b = first.box, second.box
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        if width > TOUCHING and height > TOUCHING:
            pairs.append((first.text, second.text))
    return pairs


def outside(figure: Any, texts: list[Shown]) -> list[str]:
    """Texts that the edge of the picture cuts."""
    edge = figure.bbox
    return [
        text.text
        for text in texts
        if text.box.x0 < edge.x0 - TOUCHING
        or text.box.y0 < edge.y0 - TOUCHING
        or text.box.x1 > edge.x1 + TOUCHING
        or text.box.y1 > edge.y1 + TOUCHING
    ]


def on_markers(figure: Any, texts: list[Shown]) -> list[str]:
    """Labels of a scatter plot that lie on a marker."""
    covered = []
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_marker() in ("None", "", None):
                continue
            reach = line.get_markersize() / 2 * figure.dpi / 72
            for x, y in axes.transData.transform(line.get_xydata()):
                covered += [
                    text.text
                    for text in texts
                    if text.box.x0 < x + reach
                    and x - reach < text.box.x1
                    and text.box.y0 < y + reach
                    and y - reach < text.box.y1
                ]
    return covered


def lines_beside_labels(axes: Any) -> list[str]:
    """Labels that a thin line which leads to another one comes within two pixels of."""
    renderer = axes.figure.canvas.get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}

    def distance(name: str, x: float, y: float) -> float:
        box = boxes[name]
        return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))

    found = []
    for line in axes.lines:
        if line.get_linewidth() != LEADER_WIDTH or len(line.get_xdata()) != 2:
            continue
        (x0, y0), (x1, y1) = line.get_transform().transform(line.get_xydata())
        own = min(boxes, key=lambda name, end=(x1, y1): distance(name, *end))
        steps = [(x0 + (x1 - x0) * i / 200, y0 + (y1 - y0) * i / 200) for i in range(201)]
        others = boxes.keys() - {own}
        found += [name for name in others if min(distance(name, *step) for step in steps) < 2]
    return found


LEADER_WIDTH = 0.5


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose every chunk and pixel row is whole; ValueError otherwise."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    place, pixels, size = 8, b"", (0, 0)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        checksum = data[place + 8 + length : place + 12 + length]
        if zlib.crc32(kind + body).to_bytes(4, "big") != checksum:
            raise ValueError(f"damaged chunk {kind!r}")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", body)
            depth, color = body[8], body[9]
        elif kind == b"IDAT":
            pixels += body
        elif kind == b"IEND":
            n_channels = {2: 3, 6: 4}[color]
            if depth != 8 or len(zlib.decompress(pixels)) != size[1] * (1 + n_channels * size[0]):
                raise ValueError("pixels are missing")
            return size
        place += 12 + length
    raise ValueError("the end is missing")
