"""Parts of importance matrices to matrices: sums added in the order of the text, rounded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apex_native.errors import DataError
from apex_native.imatrix import Imatrix
from apex_native.imatrix.checkpoint import RawEntry, State
from apex_native.imatrix.files import save_imatrix
from apex_native.imatrix.from_state import imatrix_from_state
from apex_native.sweeps.payloads import BlockSums
from apex_native.sweeps.texts import MatrixText

__all__ = ["merge_sums", "save_matrix"]


def save_matrix(text: MatrixText, parts: Iterator[BlockSums], path: Path) -> Imatrix:
    """The matrix `calibrate` would collect of the whole text, as a file. Raises OutputError.

    Sums are added in double, block after block: up to the order of that addition (the last bits of
    a double, before rounding to float) they are those of one collection.
    """
    first = next(parts)
    entries = merge_sums(first.entries, parts)
    settings: dict[str, Any] = {
        **first.settings,
        "tokens_sha256": hashlib.sha256(text.tokens.tobytes()).hexdigest(),
        "n_tokens": len(text.tokens),
    }
    ctx = text.definition.ctx
    state = State(len(text.tokens) // ctx, entries)
    datasets = (text.dataset,) if text.dataset else ()
    matrix = imatrix_from_state(state, chunk_size=ctx, datasets=datasets, settings=settings)
    return save_imatrix(matrix, path)


def merge_sums(first: Sequence[RawEntry], others: Iterator[BlockSums]) -> tuple[RawEntry, ...]:
    """Sums and counts of all blocks; one block in memory beside them. DataError."""
    total = {entry.weight: replace(entry, sums=entry.sums.copy()) for entry in first}
    for part in others:
        if len(part.entries) != len(total):
            raise DataError(
                f"parts of a matrix have {len(total)} and {len(part.entries)} weights; delete the "
                "store and run the sweep again"
            )
        for entry in part.entries:
            so_far = total[entry.weight]
            total[entry.weight] = replace(
                so_far, sums=so_far.sums + entry.sums, counts=so_far.counts + entry.counts
            )
    return tuple(total.values())
