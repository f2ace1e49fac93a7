"""Points of a plot: what one is, and where its label is out of the way of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apex_native.reports.kinds import file_kind, recipe_in_name
from apex_native.results import Candidate

__all__ = ["about", "label_positions", "made_of"]

_GIB = 1 << 30
_PLOT = (860.0, 460.0)
"""Pixels of the plot, about: labels are placed for this size."""

_MARKER, _LETTER, _LINE = 7.0, 7.5, 15.0
"""Pixels: from a marker's middle to its edge, of a letter, of a line of text."""

_SIDES = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
    "top right": (1, 1),
    "bottom left": (-1, -1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
}

Box = tuple[float, float, float, float]


def made_of(manifest: Mapping[str, Any]) -> str:
    """Types of a file by bytes and its importance matrix, from what `quantize` recorded."""
    sizes: dict[str, int] = {}
    for tensor in manifest["tensors"]:
        sizes[tensor["type"]] = sizes.get(tensor["type"], 0) + tensor["bytes"]
    total = sum(sizes.values()) or 1
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:4]
    types = ", ".join(f"{name} {nbytes / total:.0%}" for name, nbytes in largest)
    return types + ("; with an importance matrix" if manifest.get("imatrix_sha256") else "")


def about(candidate: Candidate, made: str = "") -> str:
    """Lines that say what a file is: recipe, size, what it is made of, what was measured."""
    kind, recipe = file_kind(candidate.name), recipe_in_name(candidate.name)
    lines = [f"<b>{candidate.name}</b>", f"{kind}: {recipe}" if recipe else kind.value]
    if candidate.bytes is not None:
        lines.append(f"{candidate.bytes / _GIB:.3f} GiB, {candidate.bpw or 0:.3f} bpw")
    if made:
        lines.append(made)
    if candidate.kld_mean is not None:
        error = f" ± {candidate.kld_se:.5f}" if candidate.kld_se is not None else ""
        lines.append(f"KLD {candidate.kld_mean:.5f}{error}")
    if candidate.kld_p999 is not None:
        lines.append(f"99.9 %: {candidate.kld_p999:.4f}")
    if candidate.same_top is not None:
        lines.append(f"same top {candidate.same_top:.2%}")
    if candidate.ppl is not None:
        lines.append(f"PPL {candidate.ppl:.4f}")
    return "<br>".join(lines)


def label_positions(
    x: Sequence[float], y: Sequence[float], labels: Sequence[str]
) -> tuple[str, ...]:
    """Plotly's textposition of each label, so that it covers no marker and no other label.

    y: on a logarithmic axis. Where there is no free side, the one that covers least.
    """
    points = list(
        zip(_pixels(x, _PLOT[0]), _pixels([math.log(v) for v in y], _PLOT[1]), strict=True)
    )
    taken = [_box(point, _MARKER, _MARKER) for point in points]
    chosen = []
    for i in sorted(range(len(points)), key=lambda i: _crowd(points, i), reverse=True):
        sides = {side: _label_box(points[i], step, labels[i]) for side, step in _SIDES.items()}
        best = min(sides, key=lambda side: _covered(sides[side], taken) + _outside(sides[side]))
        taken.append(sides[best])
        chosen.append((i, best))
    return tuple(side for _, side in sorted(chosen))


def _pixels(values: Sequence[float], length: float) -> list[float]:
    low, high = min(values), max(values)
    return [length * (0.05 + 0.9 * (v - low) / ((high - low) or 1)) for v in values]


def _crowd(points: Sequence[tuple[float, float]], i: int) -> int:
    return sum(math.dist(points[i], other) < 5 * _LINE for other in points)


def _box(middle: tuple[float, float], half_width: float, half_height: float) -> Box:
    x, y = middle
    return x - half_width, y - half_height, x + half_width, y + half_height


def _label_box(point: tuple[float, float], step: tuple[int, int], label: str) -> Box:
    half_width, half_height = _LETTER * len(label) / 2, _LINE / 2
    middle = (
        point[0] + step[0] * (_MARKER + half_width),
        point[1] + step[1] * (_MARKER + half_height),
    )
    return _box(middle, half_width, half_height)


def _covered(box: Box, others: Iterable[Box]) -> float:
    """Square pixels of the others below a box."""
    return sum(
        max(0.0, min(box[2], o[2]) - max(box[0], o[0]))
        * max(0.0, min(box[3], o[3]) - max(box[1], o[1]))
        for o in others
    )


def _outside(box: Box) -> float:
    """Square pixels beyond the left and right edge of the plot."""
    beyond = max(0.0, -box[0]) + max(0.0, box[2] - _PLOT[0])
    return beyond * (box[3] - box[1])
