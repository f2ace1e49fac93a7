"""An importance matrix in memory: what was summed, and what the quantizers take of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Imatrix", "ImatrixEntry", "means"]

Floats = npt.NDArray[np.float32]


def means(sums: Floats, counts: npt.NDArray[np.float64]) -> Floats:
    """Sums / counts in float, 1.0 for a row without a count, as llama-quantize computes them.

    sums float32 (n_slices, n_per_row), counts (n_slices,) (tools/quantize/quantize.cpp,
    load_imatrix).
    """
    values = np.ones_like(sums)
    divisors = counts.astype(np.float32)[:, None]
    np.divide(sums, divisors, out=values, where=(counts > 0)[:, None])
    return values


@dataclass(frozen=True, slots=True, eq=False)
class ImatrixEntry:
    """One tensor's data: values float32 (n_slices, n_per_row), counts float64 (n_slices,).

    sums are squared activations added up, as the file has them; values are their means, 1.0 for an
    expert no token reached, as llama-quantize fills them. counts are tokens, or, where
    counts_tokens is false, chunks (legacy files do not store tokens). all_experts, where it was
    collected, holds sums and counts of a pass with every expert active.
    """

    sums: Floats
    counts: npt.NDArray[np.float64]
    values: Floats
    all_experts: tuple[Floats, npt.NDArray[np.float64]] | None = None
    counts_tokens: bool = True

    @classmethod
    def from_sums(
        cls,
        sums: Floats,
        counts: npt.NDArray[np.float64],
        all_experts: tuple[Floats, npt.NDArray[np.float64]] | None = None,
        *,
        counts_tokens: bool = True,
    ) -> ImatrixEntry:
        """The entry whose values are means(sums, counts)."""
        return cls(sums, counts, means(sums, counts), all_experts, counts_tokens)

    def __repr__(self) -> str:
        n_slices, n_per_row = self.values.shape
        return f"ImatrixEntry({n_slices} x {n_per_row}, {self.counts.sum():,.0f} tokens)"

    @property
    def is_routed(self) -> bool:
        """Each expert has a count of its own."""
        return len(self.counts) > 1

    @property
    def informative(self) -> npt.NDArray[np.bool_]:
        """Which slices say anything: tokens were counted and their sums are not all zero.

        In a legacy file an expert that was not reached is stored as the same value everywhere.
        """
        speaks: npt.NDArray[np.bool_] = (self.counts > 0) & self.sums.any(axis=1)
        if not self.counts_tokens and self.sums.shape[1] > 1:
            speaks &= self.sums.min(axis=1) != self.sums.max(axis=1)
        return speaks

    def cut(self, n_slices: int) -> ImatrixEntry:
        """The same numbers as n_slices slices; for legacy entries, which have all in one row.

        A count for the whole tensor is taken for every slice.
        """
        if n_slices == len(self.counts) or len(self.counts) != 1:
            return self
        return ImatrixEntry(
            self.sums.reshape(n_slices, -1),
            np.repeat(self.counts, n_slices),
            self.values.reshape(n_slices, -1),
            None,
            self.counts_tokens,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """An importance matrix: tensor name → entry, with where it came from.

    chunk_size is in tokens, 0 where the file does not say (legacy). settings is how this package
    collected it, empty for other files.
    """

    entries: Mapping[str, ImatrixEntry]
    path: Path
    sha256: str
    chunk_count: int
    datasets: tuple[str, ...]
    is_legacy: bool
    chunk_size: int = 0
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        size = f" of {self.chunk_size} tokens" if self.chunk_size else ""
        return (
            f"Imatrix({str(self.path)!r}, {len(self.entries)} entries, {self.chunk_count} chunks"
            f"{size})"
        )
