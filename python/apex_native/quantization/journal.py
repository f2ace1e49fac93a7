"""The note beside a half-written file that says which of its tensors are finished.

A line is appended only after the tensors it names have reached the disk (fdatasync), so a journal
is never ahead of its file: not after kill -9, and not after a power cut.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apex_native.errors import OutputError

__all__ = ["FinishedTensor", "Journal", "read_journal"]

JOURNAL_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FinishedTensor:
    """A tensor whose bytes are on disk, with the sums its manifest entry needs."""

    name: str
    squared_error: float
    squared_weights: float
    outputs: Mapping[str, Any] | None = None
    """Errors of outputs, where second moments were used: the fields of `OutputErrors`."""
    checksum: str | None = None
    """Of the written rows, 16 hexadecimal digits; None in journals of before."""


class Journal:
    """Appends to a journal file; every record is durable when the call returns."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, new: bool) -> None:
        """Start a journal for these settings, or go on with one that was read and agreed."""
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if new else 0)
        self._fd = os.open(path, flags, 0o644)
        if new:
            self._append({"schema_version": JOURNAL_SCHEMA_VERSION, "settings": dict(settings)})

    def record(self, finished: Sequence[FinishedTensor]) -> None:
        """Note tensors whose data the caller has synced."""
        self._append(*(asdict(tensor) for tensor in finished))

    def close(self) -> None:
        """Close the file; the journal itself stays until remove()."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete the journal: the output is complete, or was given up."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, *records: Mapping[str, Any]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        os.write(self._fd, text.encode())
        os.fsync(self._fd)


def read_journal(path: Path, settings: Mapping[str, Any]) -> dict[str, FinishedTensor]:
    """The finished tensors of an interrupted run with these very settings.

    Raises OutputError that names the first setting that differs: mixing two recipes in one file
    is worse than starting again. A last line cut short by a crash is ignored.
    """
    lines = path.read_text().splitlines()
    try:
        head = json.loads(lines[0])
        before = head["settings"]
        if head["schema_version"] != JOURNAL_SCHEMA_VERSION:
            raise ValueError
    except (IndexError, KeyError, TypeError, ValueError):
        raise OutputError(
            f"{path}: not a journal of this version; delete it and start again"
        ) from None
    for key, value in settings.items():
        if before.get(key) != value:
            raise OutputError(
                f"cannot resume: {key} was {before.get(key)!r} when the run began and is {value!r} "
                f"now; run it as before, or delete {path} to start again"
            )
    finished = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            tensor = FinishedTensor(**json.loads(line))
        except (TypeError, ValueError):
            if number == len(lines):
                break
            raise OutputError(
                f"{path}: line {number} is damaged; delete it and start again"
            ) from None
        finished[tensor.name] = tensor
    return finished
