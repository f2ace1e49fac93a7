"""An importance matrix in memory: what was summed, and what the quantizers take of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from apex_native.plan import ImatrixSummary

__all__ = ["Imatrix", "ImatrixEntry", "means"]

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

    sums are squared activations added up, as the file has them; values are what a quantizer takes:
    their means, 1.0 for an expert no token reached (as llama-quantize fills them), or what
    `with_prior` makes of them. counts are tokens (chunks in legacy files, which do not store
    tokens). all_experts, where it was collected, holds sums and counts of a pass with every expert
    active.
    """

    sums: Floats
    counts: npt.NDArray[np.float64]
    values: Floats
    all_experts: tuple[Floats, npt.NDArray[np.float64]] | None = None

    @classmethod
    def from_sums(
        cls,
        sums: Floats,
        counts: npt.NDArray[np.float64],
        all_experts: tuple[Floats, npt.NDArray[np.float64]] | None = None,
    ) -> ImatrixEntry:
        """The entry whose values are means(sums, counts)."""
        return cls(sums, counts, means(sums, counts), all_experts)

    @property
    def is_routed(self) -> bool:
        """Each expert has a count of its own."""
        return len(self.counts) > 1


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """An importance matrix: tensor name → entry, with where it came from.

    chunk_size is in tokens, 0 where the file does not say (legacy). settings is how this package
    collected it, empty for other files. prior names what `with_prior` did, None: nothing.
    """

    entries: Mapping[str, ImatrixEntry]
    path: Path
    sha256: str
    chunk_count: int
    datasets: tuple[str, ...]
    is_legacy: bool
    chunk_size: int = 0
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    prior: str | None = None

    def summary(self) -> ImatrixSummary:
        """What planning needs: names and sizes, no values."""
        return ImatrixSummary(
            entries={
                name: (entry.values.shape[1], entry.values.shape[0])
                for name, entry in self.entries.items()
            },
            sha256=self.sha256,
            file=self.path.name,
            chunk_count=self.chunk_count,
            datasets=self.datasets,
            prior=self.prior,
        )
