"""A table as lines of text: as wide as it is in a pipe, as wide as the terminal in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from apex_native.cli.table_layout import Layout, fit, wrap
from apex_native.cli.tables import GAP, Table
from apex_native.printable import printable

__all__ = ["Line", "LineKind", "plain_lines", "terminal_lines"]

Measure = Callable[[str], int]


class LineKind(Enum):
    """What a line is, for who wants to colour it."""

    TITLE = auto()
    HEADING = auto()
    RULE = auto()
    ROW = auto()
    FOOTER = auto()
    NOTE = auto()


@dataclass(frozen=True, slots=True)
class Line:
    """A line without trailing blanks."""

    text: str
    kind: LineKind


def plain_lines(table: Table) -> list[Line]:
    """Aligned columns of their natural widths, no rule; for pipes and files."""
    n = len(table.columns)
    rows = [[printable(cell) for cell in row] for row in table.rows]
    footer = [printable(cell) for cell in table.footer]
    headings = [column.heading for column in table.columns]
    everything = [headings, *rows, *([footer] if footer else [])]
    widths = tuple(max(len(row[i]) for row in everything) for i in range(n))
    layout = Layout(tuple(range(n)), widths, ())
    lines = [Line(printable(table.title), LineKind.TITLE)] if table.title else []
    lines += _row_lines(table, layout, headings, LineKind.HEADING, len)
    for row in rows:
        lines += _row_lines(table, layout, row, LineKind.ROW, len)
    if footer:
        lines += _row_lines(table, layout, footer, LineKind.FOOTER, len)
    return lines + [Line(note, LineKind.NOTE) for note in table.notes]


def terminal_lines(table: Table, width: int, measure: Measure = len) -> list[Line]:
    """Lines of at most ``width`` characters; ``measure`` says how many cells a text takes.

    Headings wrap, then cells of columns that may, then columns are left out by their priority and
    named below the table. Where even that is too wide, every row is a block of lines.
    """
    layout = fit(table, width, measure)
    title = wrap(printable(table.title), width, measure) if table.title else []
    notes = list(table.notes)
    if layout is None:
        body = list(_blocks(table, width, measure))
    else:
        body = list(_body(table, layout, measure))
        notes += _left_out(table, layout)
    wrapped = [line for note in notes for line in wrap(note, width, measure)]
    return [
        *(Line(text, LineKind.TITLE) for text in title),
        *body,
        *(Line(text, LineKind.NOTE) for text in wrapped),
    ]


def _body(table: Table, layout: Layout, measure: Measure) -> Iterator[Line]:
    headings = [column.heading for column in table.columns]
    yield from _row_lines(table, layout, headings, LineKind.HEADING, measure)
    rule = Line("─" * (sum(layout.widths) + len(GAP) * (len(layout.widths) - 1)), LineKind.RULE)
    yield rule
    for row in table.rows:
        yield from _row_lines(table, layout, row, LineKind.ROW, measure)
    if table.footer:
        yield rule
        yield from _row_lines(table, layout, table.footer, LineKind.FOOTER, measure)


def _row_lines(
    table: Table, layout: Layout, row: Sequence[str], kind: LineKind, measure: Measure
) -> list[Line]:
    """One row, of as many lines as its highest cell."""
    cells = [
        wrap(printable(row[i]), width, measure)
        for i, width in zip(layout.kept, layout.widths, strict=True)
    ]
    height = max(len(cell) for cell in cells)
    lines = []
    for k in range(height):
        parts = []
        for i, width, cell in zip(layout.kept, layout.widths, cells, strict=True):
            # Headings stand on the rule, cells hang from it.
            at = k - (height - len(cell)) if kind is LineKind.HEADING else k
            text = cell[at] if 0 <= at < len(cell) else ""
            blanks = " " * (width - measure(text))
            parts.append(blanks + text if table.columns[i].right else text + blanks)
        lines.append(Line(GAP.join(parts).rstrip(), kind))
    return lines


def _left_out(table: Table, layout: Layout) -> list[str]:
    """What the columns that are not shown say, where that is the same in every row; else names."""
    values, names = [], []
    for i in sorted(layout.dropped):
        cells = {row[i] for row in table.rows}
        heading = table.columns[i].heading
        if cells == {""}:
            continue
        if len(cells) == 1:
            values.append(f"{heading} {printable(cells.pop())}")
        else:
            names.append(heading)
    notes = [f"In every row: {', '.join(values)}."] if values else []
    if names:
        notes.append(f"Not shown at this width: {', '.join(dict.fromkeys(names))}.")
    return notes


def _blocks(table: Table, width: int, measure: Measure) -> Iterator[Line]:
    """The first cell of a row as a heading, the others below it by name."""
    for row in [*table.rows, *([table.footer] if table.footer else [])]:
        for text in wrap(printable(row[0]), width, measure):
            yield Line(text, LineKind.HEADING)
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            if cell:
                text = f"{column.heading}: {printable(cell)}"
                for part in wrap(text, max(1, width - 2), measure):
                    yield Line(f"  {part}", LineKind.ROW)
