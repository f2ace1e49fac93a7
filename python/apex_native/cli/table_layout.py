"""How a table fits a width: headings and names wrap, then columns go, then rows become blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apex_native.cli.tables import GAP, Table
from apex_native.printable import printable

__all__ = ["Layout", "fit", "wrap"]

_COMFORTABLE, _NARROW = 16, 9
"""Characters below which wrapped text is not squeezed: first this; when no column can go any more,
that. Numbers wrap only then."""

_LONGEST_WORD = 20
"""Shorter words are never cut."""

_PIECES = re.compile(r"[^-_./,+]*[-_./,+]?")
"""What a name may be broken after, so that "Model-I-Quality" stays legible on two lines."""

Measure = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that are shown, by index, their widths, and those that are left out."""

    kept: tuple[int, ...]
    widths: tuple[int, ...]
    dropped: tuple[int, ...]


def fit(table: Table, width: int, measure: Measure = len) -> Layout | None:
    """The layout for lines of at most ``width`` characters; None if only blocks are legible."""
    cells = _columns_of_cells(table)
    kept = list(range(len(table.columns)))
    dropped: list[int] = []
    for least_wrapped in (_COMFORTABLE, _NARROW):
        while True:
            least = [_least_width(table, i, cells[i], least_wrapped, measure) for i in kept]
            if _total(least) <= width:
                natural = [_natural_width(table, i, cells[i], measure) for i in kept]
                widths = _spread(least, natural, width - _total(least))
                return Layout(tuple(kept), tuple(widths), tuple(dropped))
            last = max((table.columns[i].drop for i in kept[1:]), default=0)
            if not last:
                break
            dropped += [i for i in kept[1:] if table.columns[i].drop == last]
            kept = [i for i in kept if i not in dropped]
    return None


def _columns_of_cells(table: Table) -> list[list[str]]:
    rows = [*table.rows, table.footer] if table.footer else [*table.rows]
    return [[printable(row[i]) for row in rows] for i in range(len(table.columns))]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _natural_width(table: Table, i: int, cells: Sequence[str], measure: Measure) -> int:
    return max(measure(text) for text in (table.columns[i].heading, *cells))


def _least_width(
    table: Table, i: int, cells: Sequence[str], least_wrapped: int, measure: Measure
) -> int:
    """The widest word of the heading and, unless they may wrap, the widest cell."""
    column = table.columns[i]
    heading = max(measure(word) for word in column.heading.split() or [""])
    widest = max((measure(cell) for cell in cells), default=0)
    if not column.wraps or (column.right and least_wrapped > _NARROW):
        return max(heading, widest)
    words = (piece for cell in cells for word in cell.split(" ") for piece in _PIECES.findall(word))
    longest = min(max((measure(word) for word in words), default=0), _LONGEST_WORD)
    return max(heading, min(widest, max(least_wrapped, longest)))


def _spread(least: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """Widths between least and natural; what is left goes to those that need the least more."""
    widths = list(least)
    for i in sorted(range(len(widths)), key=lambda i: natural[i] - least[i]):
        more = min(spare, max(0, natural[i] - least[i]))
        widths[i] += more
        spare -= more
    return widths


def wrap(text: str, width: int, measure: Measure = len) -> list[str]:
    """Lines of at most ``width``: broken between words, within a word only where it is wider.

    A wider word is broken after a separator if it has one, as the names of models do.
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if measure(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for piece in _pieces(word, width, measure):
            if lines[-1] and measure(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return lines


def _pieces(word: str, width: int, measure: Measure) -> list[str]:
    """A word cut after separators, and anywhere where a part is still too wide."""
    if measure(word) <= width:
        return [word]
    pieces: list[str] = []
    for piece in _PIECES.findall(word):
        if measure(piece) <= width:
            pieces.append(piece)
        else:
            pieces += list(piece)  # character by character: `wrap` joins what fits
    return [piece for piece in pieces if piece]
