"""A folder for as long as a model of the hub is open, beside the client's own cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from apex_native.closable import Closable
from apex_native.hub.client import client

__all__ = ["Workspace"]

_LOCK = "lock"


class Workspace(Closable):
    """An empty folder, removed by close(); those of processes that were killed are removed too."""

    def __init__(self) -> None:
        """Make it on the disk that the client's cache (HF_HOME) is on: shards may lie in it."""
        root = Path(client().constants.HF_HOME) / "apex-native"
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        self.path = Path(tempfile.mkdtemp(dir=root))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def folder(self, name: str) -> Path:
        """A new folder in it."""
        path = self.path / name
        path.mkdir()
        return path

    def close(self) -> None:
        """Remove it with all that is in it."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(root: Path) -> None:
    """A workspace's lock is free where its process has ended."""
    for path in root.iterdir():
        try:
            lock = os.open(path / _LOCK, os.O_RDWR)
        except OSError:  # being made or removed right now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
