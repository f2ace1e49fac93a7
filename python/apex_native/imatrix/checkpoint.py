"""The state of a collection on disk: exact, so that a resumed one ends with the same bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError, OutputError
from apex_native.imatrix.files import atomic_file

__all__ = [
    "RawEntry",
    "RawMoment",
    "RawMoments",
    "State",
    "checkpoint_path",
    "read_checkpoint",
    "write_checkpoint",
]

SCHEMA_VERSION = 2
MOMENT_FIELDS = ("part", "rest", "counts", "part_counts")


@dataclass(frozen=True, slots=True, eq=False)
class RawEntry:
    """A weight's sums as the collector has them: float64 (matrices, n_per_row).

    counts int64 (experts,), or (1,) where the weight is not routed.
    """

    weight: str
    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    of_mtp_block: bool


@dataclass(frozen=True, slots=True, eq=False)
class RawMoment:
    """An input's sums of products as the collector has them.

    part, rest: float64 (matrices, n (n + 1) / 2), lower triangles, of every second group of chunks
    and of the others; counts, part_counts: int64 (matrices,), of both and of the part.
    """

    n_per_row: int
    part: npt.NDArray[np.float64]
    rest: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    part_counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RawMoments:
    """Second moments by the first weight that reads an input, and that name for every weight."""

    inputs: Mapping[str, RawMoment]
    input_of: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What whole chunks gave so far; moments where they are collected too."""

    chunks_done: int
    entries: Sequence[RawEntry]
    moments: RawMoments | None = None


def checkpoint_path(output: Path) -> Path:
    """The checkpoint of the collection that writes output."""
    return output.with_name(output.name + ".checkpoint")


def write_checkpoint(path: Path, settings: Mapping[str, Any], state: State) -> None:
    """Write a checkpoint in place of an older one, atomically. Raises OutputError."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "settings": dict(settings),
        "chunks_done": state.chunks_done,
        "entries": [
            [entry.weight, list(entry.sums.shape), len(entry.counts), entry.of_mtp_block]
            for entry in state.entries
        ],
    }
    moments = {}
    if state.moments is not None:
        head["moments"] = [[name, m.n_per_row] for name, m in state.moments.inputs.items()]
        head["input_of"] = dict(state.moments.input_of)
        for i, moment in enumerate(state.moments.inputs.values()):
            for field in MOMENT_FIELDS:
                moments[f"{field}{i}"] = getattr(moment, field)
    with atomic_file(path) as file:
        np.savez(
            file,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            sums=np.concatenate([entry.sums.ravel() for entry in state.entries]),
            counts=np.concatenate([entry.counts for entry in state.entries]),
            **moments,
        )


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> State:
    """The state of an interrupted collection with these very settings.

    Raises OutputError that names the first setting that differs, ImatrixError where the file is
    damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["schema_version"] != SCHEMA_VERSION:
                raise ValueError
            _require_same(path, head["settings"], json.loads(json.dumps(dict(settings))))
            return State(
                int(head["chunks_done"]),
                _entries(head, arrays["sums"], arrays["counts"]),
                _moments(head, arrays) if "moments" in head else None,
            )
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        raise ImatrixError(
            f"{path}: not a checkpoint of this version; delete it and start again"
        ) from None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise ImatrixError(f"cannot read {path}: {error.strerror}") from error


def _require_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise OutputError(
                f"cannot resume: {key} was {before.get(key)!r} when the collection began and is "
                f"{value!r} now; run it as before, or delete {path} to start again"
            )


def _moments(head: Mapping[str, Any], arrays: Mapping[str, Any]) -> RawMoments:
    inputs = {
        name: RawMoment(n_per_row, *(arrays[f"{field}{i}"] for field in MOMENT_FIELDS))
        for i, (name, n_per_row) in enumerate(head["moments"])
    }
    return RawMoments(inputs, head["input_of"])


def _entries(
    head: Mapping[str, Any], sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> list[RawEntry]:
    entries = []
    sum_at = count_at = 0
    for weight, shape, n_counts, of_mtp_block in head["entries"]:
        n_sums = shape[0] * shape[1]
        own = np.ascontiguousarray(sums[sum_at : sum_at + n_sums], np.float64).reshape(shape)
        entries.append(
            RawEntry(weight, own, counts[count_at : count_at + n_counts], bool(of_mtp_block))
        )
        sum_at += n_sums
        count_at += n_counts
    if sum_at != len(sums) or count_at != len(counts):
        raise ValueError
    return entries
