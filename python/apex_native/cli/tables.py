"""Tables as values; `table_render` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["GAP", "Column", "Table"]

GAP = "  "
"""Between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how its cells behave.

    right: aligned right, as numbers are. wraps: its cells may take several lines where the
    terminal is narrow. drop: 0 is never left out; otherwise the columns
    of the highest number go first, together; a table's first column always stays.
    """

    heading: str
    right: bool = False
    wraps: bool = False
    drop: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns; footer is set apart from the rows."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    footer: tuple[str, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = field(default=())
