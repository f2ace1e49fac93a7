"""Markdown's tables and text, safe for names that hold anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apex_native.printable import printable

__all__ = ["Column", "escape", "heading", "image", "table"]

_SPECIAL = re.compile(r"[\\`*<>\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)")
"""What Markdown or HTML could take for markup; underscores inside words are safe."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers are aligned right."""

    heading: str
    right: bool = True


def escape(text: str) -> str:
    """Text as it is meant, in Markdown: markup escaped, control characters as escapes."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", printable(text))


def heading(level: int, text: str, conditions: str = "") -> str:
    """A heading with what its numbers were measured on."""
    line = f"{'#' * level} {escape(text)}"
    return f"{line} ({escape(conditions)})" if conditions else line


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """A table; every cell is escaped."""
    lines = [
        _line([escape(column.heading) for column in columns]),
        _line(["---:" if column.right else ":---" for column in columns]),
    ]
    for row in rows:
        cells = zip(row, columns, strict=True)
        lines.append(_line([escape(cell) for cell, _ in cells]))
    return "\n".join(lines)


def image(text: str, path: str) -> str:
    """An image by relative path; text says what it shows to who cannot see it."""
    return f"![{escape(text)}]({path})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
