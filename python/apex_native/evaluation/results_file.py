"""The results file of an evaluation, to which another run may add at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apex_native.atomic_write import free_name
from apex_native.errors import OutputError, ResultsError
from apex_native.results import Results, merge_results

__all__ = ["ResultsFile"]


class ResultsFile:
    """Writes results, and keeps what others wrote since this run looked at the file."""

    def __init__(self, path: str | os.PathLike[str], known: Results | None) -> None:
        """known: what the run begins with; without it what the file has now is replaced."""
        self.path = Path(path)
        self._seen = _read(self.path) if known is None else known
        self._others: Results | None = None

    def save(self, results: Results) -> None:
        """Write results, joined with what another run has written meanwhile.

        Raises OutputError where the two do not go together; then both are kept, and it says where.
        """
        with _locked(self.path.absolute().parent):
            found = _read(self.path)
            if found is not None and found != self._seen:
                self._others = found
            if self._others is not None:
                results = self._joined(results, self._others)
            results.save(self.path)
            self._seen = _read(self.path)

    def _joined(self, results: Results, found: Results) -> Results:
        try:
            return merge_results([results, found])
        except ResultsError as error:
            other = free_name(self.path)
            results.save(other)
            raise OutputError(
                f"{self.path} was written by another run meanwhile, with results that do not go "
                f"together with these: {error}; these are in {other}"
            ) from error


def _read(path: Path) -> Results | None:
    """What a file holds; None where there is none, or no results."""
    try:
        return Results.load(path) if path.exists() else None
    except ResultsError:
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, where the file system has locks."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)
