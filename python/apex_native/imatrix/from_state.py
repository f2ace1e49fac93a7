"""From collected sums to an importance matrix, and how well its experts are covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from apex_native.errors import ImatrixError
from apex_native.imatrix.checkpoint import RawEntry, State
from apex_native.imatrix.entries import Imatrix, ImatrixEntry

__all__ = ["imatrix_from_state", "least_expert_tokens"]

DEFAULT_PATH = Path("imatrix.gguf")
"""What a matrix that no file holds yet is called in messages and metadata."""


def imatrix_from_state(
    state: State,
    *,
    chunk_size: int,
    datasets: tuple[str, ...],
    settings: Mapping[str, object],
) -> Imatrix:
    """The matrix a file would hold: sums rounded to float once. Raises ImatrixError on overflow."""
    entries = {}
    for raw in sorted(state.entries, key=lambda raw: raw.weight):
        with np.errstate(over="ignore"):
            sums = raw.sums.reshape(len(raw.counts), -1).astype(np.float32)
        if not np.isfinite(sums).all():
            raise ImatrixError(
                f"'{raw.weight}': its sums of squares exceed what a float holds; "
                "calibrate on fewer chunks"
            )
        entries[raw.weight] = ImatrixEntry.from_sums(sums, raw.counts.astype(np.float64))
    return Imatrix(
        entries=MappingProxyType(entries),
        path=DEFAULT_PATH,
        sha256="",
        chunk_count=state.chunks_done,
        datasets=datasets,
        is_legacy=False,
        chunk_size=chunk_size,
        settings=settings,
    )


def least_expert_tokens(entries: Sequence[RawEntry]) -> int | None:
    """Tokens that the worst covered expert of any weight has seen; None without experts."""
    least = [int(raw.counts.min()) for raw in entries if len(raw.counts) > 1]
    return min(least) if least else None
