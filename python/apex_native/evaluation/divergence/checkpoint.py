"""What an interrupted evaluation had finished, kept beside its results file.

A .npz file of the scored positions of all models, some dozen bytes each, and a key that names
everything the numbers depend on: a run with the same key goes on behind the last finished chunk.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from apex_native.atomic_write import write_atomically
from apex_native.evaluation.divergence.scores import TokenScores

__all__ = ["Checkpoint", "FinishedScores", "join_scores"]

_ARRAYS = tuple(field.name for field in fields(TokenScores) if field.name != "router")
_DTYPES = {"is_finite": np.uint8, "is_same_top": np.uint8}


@dataclass(frozen=True, slots=True)
class FinishedScores:
    """Scores of the first n_chunks chunks."""

    n_chunks: int
    reference: TokenScores
    candidates: tuple[TokenScores, ...]


def join_scores(first: TokenScores, second: TokenScores) -> TokenScores:
    """Positions of the chunks that came first and of those after them."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _ARRAYS
    }
    nothing = (0, 0, 0)
    router = {}
    for layer in sorted({*first.router, *second.router}):
        ours, theirs = first.router.get(layer, nothing), second.router.get(layer, nothing)
        router[layer] = (ours[0] + theirs[0], ours[1] + theirs[1], ours[2] + theirs[2])
    return TokenScores(**arrays, router=router)


class Checkpoint:
    """One file; key is what must be equal for its content to be of use."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        """Name the file; nothing is read or written yet."""
        self.path = path
        text = json.dumps(key, sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()

    def load(self) -> FinishedScores | None:
        """What is there, None where there is nothing of this evaluation that can be read."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if str(file["key"]) != self._key:
                    return None
                models = [_unpack(file, i) for i in range(int(file["n_models"]))]
                return FinishedScores(int(file["n_chunks"]), models[0], tuple(models[1:]))
        except (OSError, ValueError, KeyError, EOFError, IndexError):
            return None  # damaged or none: the evaluation starts over

    def save(self, finished: FinishedScores) -> None:
        """Replace the file; OutputError."""
        models = [finished.reference, *finished.candidates]
        arrays: dict[str, Any] = {
            "key": np.array(self._key),
            "n_chunks": np.array(finished.n_chunks),
            "n_models": np.array(len(models)),
        }
        for i, scores in enumerate(models):
            arrays.update(_pack(scores, i))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.path, buffer.getvalue(), what="unfinished scores")

    def remove(self) -> None:
        """Forget it: the results are complete."""
        self.path.unlink(missing_ok=True)


def _pack(scores: TokenScores, index: int) -> dict[str, Any]:
    arrays = {f"{index}.{name}": getattr(scores, name) for name in _ARRAYS}
    rows: Sequence[Sequence[int]] = [(layer, *counts) for layer, counts in scores.router.items()]
    arrays[f"{index}.router"] = np.array(rows, np.int64).reshape(-1, 4)
    return arrays


def _unpack(file: Any, index: int) -> TokenScores:
    arrays: dict[str, Any] = {
        name: np.asarray(file[f"{index}.{name}"], _DTYPES.get(name, np.float64)) for name in _ARRAYS
    }
    router = {
        int(row[0]): (int(row[1]), int(row[2]), int(row[3])) for row in file[f"{index}.router"]
    }
    return TokenScores(**arrays, router=router)
