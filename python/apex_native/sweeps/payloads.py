"""What jobs give, as bytes: the same on every machine, so that a store can be compared by them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from apex_native.errors import DataError
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.imatrix.checkpoint import RawEntry
from apex_native.json_codec import decode, encode
from apex_native.results import TaskScore

__all__ = ["BlockScores", "BlockSums", "pack_scores", "pack_sums", "pack_task", "unpack_scores",
           "unpack_sums", "unpack_task"]  # fmt: skip

_ARRAYS = tuple(field.name for field in fields(TokenScores) if field.name != "router")


@dataclass(frozen=True, slots=True)
class BlockScores:
    """A candidate and the reference on a block; facts say what the candidate is."""

    reference: TokenScores
    candidate: TokenScores
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BlockSums:
    """A block's part of an importance matrix, and the settings it was collected with."""

    entries: tuple[RawEntry, ...]
    settings: Mapping[str, Any]


def pack_scores(scores: BlockScores) -> bytes:
    """Arrays of both models, their routers and the facts."""
    arrays: dict[str, Any] = {}
    for prefix, own in (("r", scores.reference), ("c", scores.candidate)):
        arrays |= {f"{prefix}.{name}": getattr(own, name) for name in _ARRAYS}
        rows = [(layer, *counts) for layer, counts in sorted(own.router.items())]
        arrays[f"{prefix}.router"] = np.array(rows, np.int64).reshape(-1, 4)
    return _pack(scores.facts, arrays)


def unpack_scores(payload: bytes) -> BlockScores:
    """Raises DataError for what is none."""
    facts, arrays = _unpack(payload)
    return BlockScores(_scores(arrays, "r"), _scores(arrays, "c"), facts)


def pack_task(score: TaskScore, facts: Mapping[str, Any]) -> bytes:
    """A task's score, and what the model is."""
    return _pack({"score": encode(score), "facts": dict(facts)}, {})


def unpack_task(payload: bytes) -> tuple[TaskScore, Mapping[str, Any]]:
    """Raises DataError for what is none."""
    head, _ = _unpack(payload)
    score = decode(TaskScore, head["score"], "task", error=DataError, use_defaults=True)
    return score, head["facts"]


def pack_sums(sums: BlockSums) -> bytes:
    """Sums in double and counts of every weight, in the order of their names."""
    entries = sorted(sums.entries, key=lambda entry: entry.weight)
    head = {
        "settings": dict(sums.settings),
        "entries": [[e.weight, e.of_mtp_block] for e in entries],
    }
    arrays: dict[str, Any] = {}
    for i, entry in enumerate(entries):
        arrays |= {f"s{i}": entry.sums, f"n{i}": entry.counts}
    return _pack(head, arrays)


def unpack_sums(payload: bytes) -> BlockSums:
    """Raises DataError for what is none."""
    head, arrays = _unpack(payload)
    return BlockSums(
        tuple(
            RawEntry(weight, arrays[f"s{i}"], arrays[f"n{i}"], bool(of_mtp))
            for i, (weight, of_mtp) in enumerate(head["entries"])
        ),
        head["settings"],
    )


def _scores(arrays: Mapping[str, Any], prefix: str) -> TokenScores:
    own = {name: arrays[f"{prefix}.{name}"] for name in _ARRAYS}
    router = {
        int(row[0]): (int(row[1]), int(row[2]), int(row[3])) for row in arrays[f"{prefix}.router"]
    }
    return TokenScores(**own, router=router)


def _pack(head: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """An .npz without times in it: zip entries of numpy have the date 1980."""
    buffer = io.BytesIO()
    text = json.dumps(head, sort_keys=True).encode()
    np.savez(buffer, head=np.frombuffer(text, np.uint8), **arrays)
    return buffer.getvalue()


def _unpack(payload: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop("head").tobytes()), arrays
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"a stored result cannot be read ({error}); delete the store and run the sweep again"
        ) from error
