"""Layer numbers as people write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["format_layers"]


def format_layers(layers: Iterable[int]) -> str:
    """``0, 7``, ``2–5, 9`` or ``3–39 every 4th``: sorted, each once.

    Three or more neighbours are a range, four or more at equal distances a series.
    """
    ordered = sorted(set(layers))
    parts: list[str] = []
    start = 0
    while start < len(ordered):
        length, step = _series(ordered, start)
        first, last = ordered[start], ordered[start + length - 1]
        if step == 1 and length >= 3:
            parts.append(f"{first}–{last}")
        elif step > 1 and length >= 4:
            parts.append(f"{first}–{last} every {_ordinal(step)}")
        else:
            length = 1
            parts.append(str(first))
        start += length
    return ", ".join(parts)


def _series(ordered: Sequence[int], start: int) -> tuple[int, int]:
    """How many numbers from start on have the same distance, and the distance (0 for the last)."""
    if start + 1 == len(ordered):
        return 1, 0
    step = ordered[start + 1] - ordered[start]
    end = start + 1
    while end + 1 < len(ordered) and ordered[end + 1] - ordered[end] == step:
        end += 1
    return end - start + 1, step


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"
