"""Text for people: what comes from files, safe to show, and counts of things."""

from __future__ import annotations

__all__ = ["counted", "printable"]


def printable(text: str) -> str:
    """The text with control characters and lone surrogates as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def counted(n: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
