"""The one place that writes: data to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from typing import Any, TextIO

from apex_native.cli.table_render import LineKind, plain_lines, terminal_lines
from apex_native.cli.tables import Table
from apex_native.errors import OutputError
from apex_native.printable import printable

__all__ = ["Output", "exact_size", "print_error"]

_STYLES = {
    LineKind.TITLE: "bold",
    LineKind.HEADING: "bold",
    LineKind.RULE: "dim",
    LineKind.NOTE: "dim",
}


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
        """A line of data for people; nothing in json mode. A terminal breaks it between words."""
        if not self.json_mode:
            _write_line(sys.stdout, line)

    def verbatim(self, line: str) -> None:
        """A line of a file that a terminal may break but not change, so that it can be copied."""
        if not self.json_mode:
            _write(sys.stdout, printable(line) + "\n")

    def table(self, table: Table) -> None:
        """A table of data for people, as wide as the terminal; nothing in json mode."""
        if self.json_mode:
            return
        if not sys.stdout.isatty():
            _write(sys.stdout, "".join(f"{line.text}\n" for line in plain_lines(table)))
            return
        from rich.cells import cell_len
        from rich.console import Console
        from rich.text import Text

        console = Console(file=sys.stdout, highlight=False)
        for line in terminal_lines(table, console.width, cell_len):
            console.print(Text(line.text, _STYLES.get(line.kind, "")), soft_wrap=True)

    def document(self, value: Any) -> None:
        """The JSON document; nothing unless in json mode."""
        if self.json_mode:
            _write(sys.stdout, json.dumps(value, indent=1) + "\n")

    def note(self, text: str) -> None:
        """Something worth knowing, on stderr; dropped when quiet."""
        if not self.quiet:
            _write_line(sys.stderr, text)

    def warning(self, text: str) -> None:
        """Something that may be wrong, on stderr; dropped when quiet."""
        self.note(f"warning: {text}")


def print_error(text: str, *hints: str) -> None:
    """An error and its hints on stderr, in every mode; several lines are kept."""
    for line in ["error: " + text, *(f"hint: {hint}" for hint in hints)]:
        for part in line.split("\n"):
            _write_line(sys.stderr, part)


def _write_line(stream: TextIO, text: str) -> None:
    """A line; on a terminal as many as it takes, broken between words and indented by two."""
    text = printable(text)
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(
            textwrap.wrap(
                *(text, width),
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
                drop_whitespace=True,
                replace_whitespace=False,
            )
        )
    _write(stream, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if stream is not sys.stdout:
            raise
        raise OutputError(
            f"cannot write to standard output: {error.strerror}; send it somewhere else"
        ) from error
