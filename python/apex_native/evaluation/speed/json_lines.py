"""Records that are kept as they come: one JSON line each, on disk before the next is measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self, TextIO

from apex_native.closable import Closable
from apex_native.errors import OutputError

__all__ = ["JsonLines"]


class JsonLines(Closable):
    """Appends to a file, or only remembers where there is none. Use in a ``with`` statement.

    values holds what was appended in this run.
    """

    def __init__(self, path: Path | None) -> None:
        """The file is opened, and made, on entry; OutputError where that fails."""
        self._path = path
        self._file: TextIO | None = None
        self.values: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        if self._path is not None:
            _require_json_lines(self._path)
            try:
                self._file = self._path.open("a", encoding="utf-8")
            except OSError as error:
                raise self._error(error) from error
        return self

    def close(self) -> None:
        """Close the file; one that was made for nothing goes."""
        if self._file is None or self._path is None:
            return
        self._file.close()
        if not self.values and self._path.stat().st_size == 0:
            self._path.unlink()  # made on entry, for nothing

    @property
    def n_lines(self) -> int:
        """Lines appended in this run."""
        return len(self.values)

    def append(self, value: dict[str, Any]) -> None:
        """Write one line and wait until the disk has it; numbers must be finite."""
        line = json.dumps(value, allow_nan=False) + "\n"
        self.values.append(value)
        if self._file is None:
            return
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"cannot append to {self._path}: {error.strerror}; choose another place")


def _require_json_lines(path: Path) -> None:
    """Raise OutputError where a file exists that lines of JSON cannot be appended to."""
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 24)
            if not first:
                return
            file.seek(-1, os.SEEK_END)
            complete = file.read(1) == b"\n"
        if complete and isinstance(json.loads(first), dict):
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        pass
    raise OutputError(
        f"{path} exists and is no file of JSON lines, so that nothing can be appended to it; "
        "choose another place"
    )
