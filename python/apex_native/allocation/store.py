"""Where measurements are kept: one SQLite file, each entry found by the hash of what it measured.

An entry is written when its measurement is complete, in a transaction of its own: after a kill the
store holds whole entries only, and the next run goes on from them. Two processes may share a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apex_native.closable import Closable
from apex_native.errors import DataError

__all__ = ["STORE_FILE", "Probe", "ProbeStore", "Scores"]

SCHEMA_VERSION = 1
STORE_FILE = "probes.sqlite"


@dataclass(frozen=True, slots=True)
class Probe:
    """A measurement to be made: nothing here depends on the machine that makes it.

    model: `model_fingerprint` of the reference. types: the tensors that differ from it, by name.
    matrix: sha256 of the importance matrix and its prior, '' without one. bytes: how weights are
    quantized ('stock', or a method's name and version). tokens: sha256 of the chunk's tokens, int32
    little-endian. ctx: their number; the second half is scored.
    """

    model: str
    types: Mapping[str, str]
    matrix: str
    tokens: str
    ctx: int
    bytes: str = "stock"

    @property
    def key(self) -> str:
        """sha256 over the canonical JSON of all fields."""
        data = {"probe": SCHEMA_VERSION, **asdict(self), "types": sorted(self.types.items())}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Scores:
    """One chunk against the reference: sums over its scored positions, nats."""

    n: int
    kld: float
    nll: float
    reference_nll: float
    same_top: int


class ProbeStore(Closable):
    """Measurements by their key; use it in a ``with`` statement."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """Open or make a store: a folder or a file; None keeps it in memory only.

        Raises DataError for a file that is no store of this version.
        """
        self.path = None if path is None else _store_file(Path(path))
        try:
            self._db = sqlite3.connect(self.path or ":memory:", timeout=60)
            self._prepare()
        except sqlite3.Error as error:
            raise DataError(f"{path} is no store of probes: {error}") from error

    def _prepare(self) -> None:
        if self.path is not None:
            self._db.execute("PRAGMA journal_mode=WAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DataError(
                f"{self.path} is a store of version {version}, expected {SCHEMA_VERSION}; "
                "give another folder"
            )
        with self._db:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS probes (key TEXT PRIMARY KEY, probe TEXT NOT NULL, "
                "n INTEGER NOT NULL, kld REAL NOT NULL, nll REAL NOT NULL, "
                "reference_nll REAL NOT NULL, same_top INTEGER NOT NULL)"
            )
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the database; what was kept stays in it."""
        self._db.close()

    def find(self, keys: Sequence[str]) -> dict[str, Scores]:
        """The entries there are."""
        found = {}
        for begin in range(0, len(keys), 500):
            part = keys[begin : begin + 500]
            marks = ",".join("?" * len(part))
            query = (
                "SELECT key, n, kld, nll, reference_nll, same_top FROM probes "
                f"WHERE key IN ({marks})"
            )
            for key, *values in self._db.execute(query, part):
                found[key] = Scores(*values)
        return found

    def add(self, entries: Iterable[tuple[Probe, Scores]]) -> None:
        """Keep measurements; one that is there already stays as it is."""
        rows = [(probe.key, _as_json(probe), *_values(scores)) for probe, scores in entries]
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO probes VALUES (?,?,?,?,?,?,?)", rows)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM probes").fetchone()[0])

    def merge(self, other: Path) -> int:
        """Take over another store's entries (another machine's); how many were new."""
        before = len(self)
        with ProbeStore(other) as theirs:
            rows = list(theirs._db.execute("SELECT * FROM probes"))
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO probes VALUES (?,?,?,?,?,?,?)", rows)
        return len(self) - before


def _store_file(path: Path) -> Path:
    """The file itself, or the one in a folder that is made if need be."""
    if path.is_dir() or not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        return path / STORE_FILE
    return path


def _as_json(probe: Probe) -> str:
    return json.dumps(asdict(probe), sort_keys=True)


def _values(scores: Scores) -> tuple[Any, ...]:
    return (scores.n, scores.kld, scores.nll, scores.reference_nll, scores.same_top)
