"""Where results are kept: one SQLite file, each entry found by its job's key.

Only the process that started the sweep opens it; workers send statistics and never see it. So a
cluster needs no shared folder for results and no database server, and the file may lie on network
storage: the lock is taken once, exclusively, and the write-ahead log then needs no shared memory.
An entry is written in a transaction of its own when its job is done: a kill leaves whole entries.
Parts of importance matrices, hundreds of megabytes, lie beside it as files until they are merged.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex_native.atomic_write import write_atomically
from apex_native.closable import Closable
from apex_native.errors import DataError, OutputError

__all__ = ["STORE_FILE", "Entry", "SweepStore"]

SCHEMA_VERSION = 1
STORE_FILE = "sweep.sqlite"
LARGE_BYTES = 16 << 20
"""Payloads from here on are files: SQLite reads and writes a value in one piece."""

_TABLES = """
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, kind TEXT NOT NULL, label TEXT NOT NULL,
  payload BLOB, seconds REAL NOT NULL, memory_bytes INTEGER NOT NULL, worker TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (key TEXT PRIMARY KEY, label TEXT NOT NULL, n INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished job: what it gave, and what that took. payload is None where a file holds it."""

    key: str
    kind: str
    label: str
    payload: bytes | None
    seconds: float
    memory_bytes: int
    worker: str


class SweepStore(Closable):
    """Results by key; use it in a ``with`` statement."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or make the file; DataError for one that is no store or that is in use."""
        self.path = Path(path)
        self._files = self.path.with_name(self.path.name + ".parts")
        self._is_new = not self.path.exists()
        try:
            self._db = sqlite3.connect(self.path, timeout=2)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._prepare()
        except sqlite3.Error as error:
            in_use = "locked" in str(error)
            reason = (
                "another sweep is using it; wait for it, or give another store"
                if in_use
                else f"it is no store of a sweep ({error}); give another file"
            )
            raise DataError(f"{path}: {reason}") from error

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DataError(
                f"{self.path} is a store of version {version}, expected {SCHEMA_VERSION}; "
                "give another file"
            )
        with self._db:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the database; what was kept stays in it. One made for nothing is taken away."""
        is_needless = self._is_new and not self._has_rows()
        self._is_new = False
        self._db.close()
        if is_needless:
            self.path.unlink(missing_ok=True)

    def _has_rows(self) -> bool:
        query = "SELECT 1 FROM results UNION ALL SELECT 1 FROM attempts LIMIT 1"
        return self._db.execute(query).fetchone() is not None

    def known(self, keys: Sequence[str]) -> set[str]:
        """Those that there is a result for."""
        found: set[str] = set()
        for begin in range(0, len(keys), 500):
            part = keys[begin : begin + 500]
            query = f"SELECT key FROM results WHERE key IN ({','.join('?' * len(part))})"
            found.update(key for (key,) in self._db.execute(query, part))
        return found

    def payload(self, key: str) -> bytes:
        """What a finished job gave; KeyError, DataError where its file is gone."""
        row = self._db.execute("SELECT payload FROM results WHERE key=?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        if row[0] is not None:
            return bytes(row[0])
        try:
            return self._file(key).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self._file(key)}: {error.strerror}") from error

    def add(self, entry: Entry) -> None:
        """Keep a result and forget how often it was tried; OutputError where there is no room."""
        payload = entry.payload
        if payload is not None and len(payload) >= LARGE_BYTES:
            self._files.mkdir(exist_ok=True)
            write_atomically(self._file(entry.key), payload, what="part of a sweep")
            payload = None
        row = (entry.key, entry.kind, entry.label, payload, entry.seconds, entry.memory_bytes,
               entry.worker)  # fmt: skip
        try:
            with self._db:
                self._db.execute("INSERT OR IGNORE INTO results VALUES (?,?,?,?,?,?,?)", row)
                self._db.execute("DELETE FROM attempts WHERE key=?", (entry.key,))
        except sqlite3.Error as error:
            raise OutputError(
                f"cannot write {self.path}: {error}; free the place and go on with `resume=True`"
            ) from error

    def forget(self, keys: Iterable[str]) -> None:
        """Drop results that something was made of and that take much room."""
        for key in keys:
            self._file(key).unlink(missing_ok=True)
            with self._db:
                self._db.execute("DELETE FROM results WHERE key=?", (key,))

    def begin(self, key: str, label: str) -> None:
        """Note that a job is tried in this very process, which it may end."""
        query = (
            "INSERT INTO attempts VALUES (?,?,1) ON CONFLICT (key) DO UPDATE SET n = attempts.n + 1"
        )
        with self._db:
            self._db.execute(query, (key, label))

    def attempts(self, key: str) -> int:
        """How often a job was begun without an end."""
        row = self._db.execute("SELECT n FROM attempts WHERE key=?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def end(self, key: str) -> None:
        """Note that the process lives: whatever became of the job, it did not end it."""
        with self._db:
            self._db.execute("DELETE FROM attempts WHERE key=?", (key,))

    def memory_bytes(self) -> int:
        """Memory of the largest worker so far; 0 without any."""
        row = self._db.execute("SELECT MAX(memory_bytes) FROM results").fetchone()
        return int(row[0] or 0)

    def seconds(self, kind: str) -> list[float]:
        """How long jobs of a kind took, in the order they ended."""
        query = "SELECT seconds FROM results WHERE kind=? ORDER BY rowid"
        return [float(value) for (value,) in self._db.execute(query, (kind,))]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def _file(self, key: str) -> Path:
        return self._files / f"{key}.npz"
