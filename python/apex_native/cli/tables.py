"""Tables as values, and how they look: aligned text in a pipe, rich in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apex_native.printable import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Column", "Table", "render_plain", "render_rich"]

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers are aligned right; only a column that may wrap gives up width."""

    heading: str
    right: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns; footer is set apart from the rows."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    footer: tuple[str, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = field(default=())


def render_plain(table: Table) -> str:
    """Aligned columns, no lines, no trailing blanks; ends with a newline."""
    headings = tuple(column.heading for column in table.columns)
    body = [tuple(printable(cell) for cell in row) for row in _with_footer(table)]
    widths = [max(len(row[i]) for row in (headings, *body)) for i in range(len(headings))]
    lines = [printable(table.title)] if table.title else []
    for row in (headings, *body):
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        lines.append(_GAP.join(cells).rstrip())
    lines += table.notes
    return "\n".join(lines) + "\n"


def _with_footer(table: Table) -> Iterable[tuple[str, ...]]:
    return [*table.rows, table.footer] if table.footer else table.rows


def render_rich(table: Table) -> RichTable:
    """The same table for a terminal."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(
        title=Text(printable(table.title)) if table.title else None,
        title_justify="left",
        caption=Text("\n".join(table.notes)) if table.notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_footer=bool(table.footer),
        pad_edge=False,
    )
    footers = table.footer or ("",) * len(table.columns)
    for column, footer in zip(table.columns, footers, strict=True):
        rich.add_column(
            column.heading,
            footer=Text(printable(footer)),
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
        )
    for row in table.rows:
        rich.add_row(*(Text(printable(cell)) for cell in row))
    return rich
