"""Second moments of weights' inputs: X^T X, the "Hessian" of GPTQ and its kin.

An importance matrix is its diagonal. `Hessian` says which columns of an input go together, so that
a quantizer can make good an error of one weight with its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError
from apex_native.imatrix.checkpoint import RawMoments
from apex_native.imatrix.entries import Floats

__all__ = ["Counts", "Hessian", "InputMoment", "packed_size", "settings_digest"]

Counts = npt.NDArray[np.int64]


def packed_size(n: int) -> int:
    """Elements of the lower triangle of an n x n matrix: row i begins at i (i + 1) / 2."""
    return n * (n + 1) // 2


@dataclass(frozen=True, slots=True, eq=False)
class InputMoment:
    """One input's sums of products over tokens.

    total, part: float32 (n_slices, packed_size(n_per_row)), lower triangles, of all tokens and of
    every second group of chunks; counts, part_counts: int64 (n_slices,) tokens. A slice is an
    expert; an input that is not routed has one. is_exact: no estimate from tokens; nothing in it
    is to be shrunk or held out. groups: int32 (rows of the weight,), where slices are groups of its
    rows, each with inputs weighed by how likely its tokens are there.
    """

    n_per_row: int
    total: Floats
    part: Floats
    counts: Counts
    part_counts: Counts
    is_exact: bool = False
    groups: npt.NDArray[np.int32] | None = None

    def dense(self, slice_: int = 0) -> npt.NDArray[np.float64]:
        """The mean over tokens as a symmetric matrix, float64 (n_per_row, n_per_row)."""
        n = self.n_per_row
        result = np.zeros((n, n))
        result[np.tril_indices(n)] = self.total[slice_]
        result += np.tril(result, -1).T
        return result / max(int(self.counts[slice_]), 1)

    def ungrouped(self) -> InputMoment:
        """One moment for all rows; itself where there are no groups."""
        if self.groups is None:
            return self
        return InputMoment(
            self.n_per_row,
            self.total.sum(axis=0, keepdims=True),
            self.part.sum(axis=0, keepdims=True),
            self.counts.sum(keepdims=True),
            self.part_counts.sum(keepdims=True),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Hessian:
    """The second moments of a model's inputs, by the first weight that reads each.

    input_of: that name for every weight. digest: sha256 of what decides the values (model, tokens,
    settings), whichever file holds them.
    """

    inputs: Mapping[str, InputMoment]
    input_of: Mapping[str, str]
    digest: str
    n_tokens: int
    settings: Mapping[str, object]
    path: Path | None = None

    def moment_of(self, weight: str) -> InputMoment | None:
        """The input a weight reads; None where none was collected."""
        name = self.input_of.get(weight)
        return None if name is None else self.inputs[name]

    def windows(
        self, weights: Collection[str]
    ) -> Generator[tuple[tuple[str, ...], Hessian], None, None]:
        """All of these weights at once: the moments lie in memory, or in a file."""
        yield tuple(weights), self

    @classmethod
    def from_raw(cls, raw: RawMoments, settings: Mapping[str, Any], n_tokens: int) -> Hessian:
        """Round collected sums to float once. Raises ImatrixError on overflow."""
        inputs = {}
        for name, moment in raw.inputs.items():
            with np.errstate(over="ignore"):
                total = (moment.part + moment.rest).astype(np.float32)
                part = moment.part.astype(np.float32)
            if not np.isfinite(total).all():
                raise ImatrixError(
                    f"'{name}': its second moment exceeds what a float holds; "
                    "calibrate on fewer chunks"
                )
            inputs[name] = InputMoment(
                moment.n_per_row, total, part, moment.counts.copy(), moment.part_counts.copy()
            )
        return cls(inputs, dict(raw.input_of), settings_digest(settings), n_tokens, dict(settings))


def settings_digest(settings: Mapping[str, object]) -> str:
    """sha256 of a collection's settings: the model, the tokens, how they were computed."""
    text = json.dumps(json.loads(json.dumps(dict(settings))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
