"""What an interrupted run of tasks had finished, kept beside its results file.

A .npz file with the log-probabilities of every group of items that was computed, by a key that
names everything they depend on. The native scorer takes the groups over and computes the others,
in the batches it would have used anyway: an interrupted run gives the same numbers.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.atomic_write import write_atomically

__all__ = ["CHECKPOINT_EVERY_S", "Groups", "TaskCheckpoint"]

CHECKPOINT_EVERY_S = 30.0

Groups = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]
"""Which groups are finished, and the log-probabilities so far."""


class TaskCheckpoint:
    """One file for all tasks of a run."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a damaged or foreign file counts as none."""
        self.path = path
        self._known: dict[str, Groups] = {}
        self._saved_at = time.monotonic()
        try:
            with np.load(path, allow_pickle=False) as file:
                for key in (name.removesuffix(".groups") for name in file if ".groups" in name):
                    self._known[key] = (file[f"{key}.groups"], file[f"{key}.log_probs"])
        except (OSError, ValueError, KeyError, EOFError):
            self._known = {}

    @staticmethod
    def key(identity: object, arrays: Sequence[npt.NDArray[Any]]) -> str:
        """sha256 of what the numbers depend on: model, build and settings, and the tokens."""
        digest = hashlib.sha256(repr(identity).encode())
        for array in arrays:
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def load(self, key: str) -> Groups | None:
        """What an earlier run finished of this."""
        return self._known.get(key)

    def tick(self, key: str, finished: Callable[[], Groups]) -> None:
        """Save if the last time is long enough ago."""
        if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY_S:
            self.save(key, finished())

    def save(self, key: str, groups: Groups) -> None:
        """Replace the file; OutputError."""
        if not groups[0].any():
            return
        self._known[key] = groups
        arrays: dict[str, Any] = {}
        for name, (done, log_probs) in self._known.items():
            arrays |= {f"{name}.groups": done, f"{name}.log_probs": log_probs}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.path, buffer.getvalue(), what="unfinished tasks")
        self._saved_at = time.monotonic()

    def explain(self, stop: BaseException) -> None:
        """Say what is kept, where anything is."""
        if self._known:
            stop.add_note(
                f"finished task items are kept in {self.path}; the same command goes on from there"
            )

    def remove(self) -> None:
        """Forget it: the results are complete."""
        self._known = {}
        self.path.unlink(missing_ok=True)
