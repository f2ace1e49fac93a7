"""The one place that writes: data to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import sys
from typing import Any, TextIO

from apex_native.cli.tables import Table, render_plain, render_rich
from apex_native.printable import printable

__all__ = ["Output", "exact_size", "print_error"]


def exact_size(nbytes: int) -> str:
    """``17,282,147,392 bytes (16.095 GiB)``: exact, and as people say it; MiB if smaller."""
    unit, name = (1 << 30, "GiB") if nbytes >= 1 << 30 else (1 << 20, "MiB")
    return f"{nbytes:,} bytes ({nbytes / unit:.3f} {name})"


class Output:
    """What a verb prints to, in one of three ways chosen once.

    For people: text and tables. json: exactly one document. quiet: results only, no progress and
    no warnings. Colour and boxes appear on a terminal only; NO_COLOR is honoured (by rich).
    """

    def __init__(self, *, json_mode: bool = False, quiet: bool = False) -> None:
        """Choose the way; stdout is made unable to fail on a character it cannot encode."""
        self.json_mode = json_mode
        self.quiet = quiet
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")

    def text(self, line: str = "") -> None:
        """A line of data for people; nothing in json mode."""
        if not self.json_mode:
            _write(sys.stdout, printable(line) + "\n")

    def table(self, table: Table) -> None:
        """A table of data for people; nothing in json mode."""
        if self.json_mode:
            return
        if not sys.stdout.isatty():
            _write(sys.stdout, render_plain(table))
            return
        from rich.console import Console

        Console(file=sys.stdout).print(render_rich(table))

    def document(self, value: Any) -> None:
        """The JSON document; nothing unless in json mode."""
        if self.json_mode:
            _write(sys.stdout, json.dumps(value, indent=1) + "\n")

    def note(self, text: str) -> None:
        """Something worth knowing, on stderr; dropped when quiet."""
        if not self.quiet:
            _write(sys.stderr, printable(text) + "\n")

    def warning(self, text: str) -> None:
        """Something that may be wrong, on stderr; dropped when quiet."""
        self.note(f"warning: {text}")


def print_error(text: str, *hints: str) -> None:
    """An error and its hints on stderr, in every mode; several lines are kept."""
    lines = ["error: " + text, *(f"hint: {hint}" for hint in hints)]
    _write(
        sys.stderr, "".join(printable(part) + "\n" for line in lines for part in line.split("\n"))
    )


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
