"""Several importance matrices of one model as one: sums and counts add up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from apex_native.argument_kinds import require_kind
from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Floats, Imatrix, ImatrixEntry
from apex_native.imatrix.files import as_imatrix, sealed

__all__ = ["merge_imatrices"]


def merge_imatrices(
    matrices: Sequence[Imatrix | str | os.PathLike[str]],
    *,
    path: Path | None = None,
    chunk_size: int = 512,
) -> Imatrix:
    """Add up matrices, as ``llama-imatrix --in-file`` does (tools/imatrix/imatrix.cpp).

    Paths stand for the matrices of these files.
    Sums are added in double and rounded once. A count for a whole tensor counts for each expert
    of another matrix. Legacy files store chunks, not tokens: they are scaled by chunk_size
    (tokens), as upstream does. Raises ImatrixError where two matrices have one tensor in two
    sizes, or where there is none to merge.
    """
    require_kind("matrices", matrices, (list, tuple), "give a list of matrices or their paths")
    read = [as_imatrix(matrix) for matrix in matrices]
    if not read:
        raise ImatrixError("nothing to merge; give at least one importance matrix")
    sizes = [matrix.chunk_size for matrix in read if matrix.chunk_size]
    size = sizes[0] if sizes else chunk_size
    parts: dict[str, list[tuple[Imatrix, ImatrixEntry]]] = {}
    for matrix in read:
        for name, entry in matrix.entries.items():
            parts.setdefault(name, []).append((matrix, entry))
    entries = {name: _merged(name, found, size) for name, found in sorted(parts.items())}
    largest = max(int(entry.counts.max()) for entry in entries.values())
    merged = Imatrix(
        entries=MappingProxyType(entries),
        path=path or read[0].path,
        sha256="",
        chunk_count=largest // size,
        datasets=tuple(dict.fromkeys(name for matrix in read for name in matrix.datasets)),
        is_legacy=False,
        chunk_size=size,
        settings={"merged_sha256": [matrix.sha256 for matrix in read]},
    )
    return sealed(merged)


def _merged(
    name: str, found: Sequence[tuple[Imatrix, ImatrixEntry]], chunk_size: int
) -> ImatrixEntry:
    n_slices = max(len(entry.counts) for _, entry in found)
    n_values = found[0][1].sums.size
    sums = np.zeros((n_slices, n_values // n_slices))
    counts = np.zeros(n_slices)
    for matrix, entry in found:
        if entry.sums.size != n_values or len(entry.counts) not in (1, n_slices):
            raise ImatrixError(
                f"{matrix.path}: '{name}' has {entry.sums.size} values and {len(entry.counts)} "
                f"counts, {found[0][0].path} has {n_values} and {n_slices}; "
                "merge matrices of one model only"
            )
        scale = chunk_size if matrix.is_legacy else 1
        sums += entry.sums.astype(np.float64).reshape(sums.shape) * scale
        counts += entry.counts * scale
    return ImatrixEntry.from_sums(sums.astype(np.float32), counts, _merged_all(found))


def _merged_all(
    found: Sequence[tuple[Imatrix, ImatrixEntry]],
) -> tuple[Floats, npt.NDArray[np.float64]] | None:
    pairs = [entry.all_experts for _, entry in found if entry.all_experts is not None]
    if not pairs:
        return None
    sums = np.sum([sums.astype(np.float64) for sums, _ in pairs], axis=0)
    return sums.astype(np.float32), np.sum([counts for _, counts in pairs], axis=0)
