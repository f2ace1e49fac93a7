"""The folder of a sweep: what is in it, and when it may be written."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from apex_native.errors import OutputError
from apex_native.sweeps.store import STORE_FILE

__all__ = ["SweepFolder"]


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """``sweep.sqlite``, ``matrices/``, a results file and a report for each text."""

    path: Path
    store: Path

    @classmethod
    def open(cls, path: Path, store: Path | None, *, resume: bool, force: bool) -> SweepFolder:
        """Make it; OutputError where a sweep is in it that is neither to be resumed nor replaced.

        A store elsewhere is shared on purpose: it needs no resume, and force leaves it alone.
        """
        own = path / STORE_FILE
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, and a sweep fills a folder; choose another name")
        taken = own if own.exists() else next(iter(path.glob("results*.json")), None)
        if taken is not None and not (resume or force):
            raise OutputError(
                f"{taken} is there from an earlier sweep; pass `resume=True` to go on with it or "
                "add to it, or `force=True` to start again"
            )
        folder = cls(path, store or own)
        if force and not resume:
            folder._clear(own)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.store.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {path}: {error.strerror}") from error
        return folder

    def matrix(self, name: str) -> Path:
        """Where a collected matrix goes."""
        folder = self.path / "matrices"
        folder.mkdir(exist_ok=True)
        return folder / f"{_safe(name)}.imatrix.gguf"

    def results(self, text: str | None) -> Path:
        """The results file; text is its name where there are several."""
        return self.path / ("results.json" if text is None else f"results-{_safe(text)}.json")

    def report(self, text: str | None) -> Path:
        """The folder of the report."""
        return self.path / ("report" if text is None else f"report-{_safe(text)}")

    def _clear(self, own: Path) -> None:
        for path in (own, *own.parent.glob(f"{own.name}-*"), *self.path.glob("results*.json")):
            path.unlink(missing_ok=True)
        shutil.rmtree(own.with_name(f"{own.name}.parts"), ignore_errors=True)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
