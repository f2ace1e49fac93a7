"""Allocation probes: one kind of tensor of one layer in one type, everything else as it is.

What they find is kept as `apex_native.search` keeps it, so that ``search --store`` can use it, and
written as a table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.allocation.store import Probe, ProbeStore, Scores
from apex_native.allocation.texts import Part
from apex_native.allocation.units import Unit, make_units
from apex_native.atomic_write import write_atomically
from apex_native.classification import classify_tensors
from apex_native.engine import Placement
from apex_native.gguf import GgufFile, open_gguf
from apex_native.imatrix import Importance, load_imatrix
from apex_native.plan.imatrix import EntryFit, ImatrixSummary, ImatrixUse, entry_fit, imatrix_use
from apex_native.sweeps.definition import NO_MATRIX, ProbeGrid
from apex_native.sweeps.jobs import Block, ProbeJob, SharedFile
from apex_native.types import GgmlType, TensorInfo

__all__ = ["OpenProbes", "make_probe_jobs", "write_probes"]


class OpenProbes:
    """A worker's loaded reference, in which tensors are exchanged; `close` frees it."""

    def __init__(self, path: Path, matrix: Path | None, ctx: int, placement: Placement) -> None:
        """Load it. Raises GgufError, ModelError, ImatrixError."""
        self._source = open_gguf(path)
        imatrix = None if matrix is None else load_imatrix(matrix)
        self._store = ProbeStore(None)
        settings = SessionSettings(ctx, placement)
        self._session = ProbeSession(self._source, imatrix, self._store, settings)

    def run(self, job: ProbeJob) -> bytes:
        """Every chunk's scores, with what they are scores of, as JSON."""
        tokens = job.block.array.reshape(-1, job.block.ctx)
        types = {name: GgmlType.parse(type) for name, type in job.types}
        (found,) = self._session.measure([types], Part(tokens, (0,) * len(tokens)))
        rows = [
            {"probe": asdict(self._session.probe(types, chunk)), "scores": asdict(scores)}
            for chunk, scores in zip(tokens, found.scores, strict=True)
        ]
        return json.dumps(rows, sort_keys=True).encode()

    def close(self) -> None:
        """Free the model."""
        self._session.close()
        self._store.close()
        self._source.close()


def make_probe_jobs(
    source: GgufFile,
    grids: Sequence[ProbeGrid],
    blocks: Sequence[Block],
    matrices: Mapping[str, SharedFile],
) -> tuple[ProbeJob, ...]:
    """A job for every unit, type and block; tensors that cannot have a type are left as they are.

    Units are `search`'s: a layer's tensors of one kind, the embedding, the output.
    """
    return tuple(
        ProbeJob(f"{unit.name} {type.name}", types, matrices.get(grid.matrix), block)
        for grid in grids
        for unit, type, types in _probes(source, grid, matrices)
        for block in blocks
    )


def _probes(
    source: GgufFile, grid: ProbeGrid, matrices: Mapping[str, SharedFile]
) -> Iterator[tuple[Unit, GgmlType, tuple[tuple[str, str], ...]]]:
    summary = None
    if grid.matrix != NO_MATRIX:
        summary = Importance(load_imatrix(matrices[grid.matrix].path), source.facts).summary()
    infos = {info.name: info for info in source.tensors}
    weights = [info.name for info in source.tensors if len(info.shape) > 1]
    units = make_units(classify_tensors(source.facts), weights)
    # Routers and the like stay as they are in every recipe.
    for unit in (unit for unit in units if unit.kind != "other"):
        for type in grid.types:
            own = [infos[name] for name in unit.tensors]
            types = tuple((i.name, type.name) for i in own if _can_be(i, type, summary))
            if types:
                yield unit, type, types


def _can_be(info: TensorInfo, type: GgmlType, summary: ImatrixSummary | None) -> bool:
    if not info.type.is_target or info.type is type or info.shape[-1] % type.block_size:
        return False
    if imatrix_use(info.name, info.type, type, None) is not ImatrixUse.REQUIRED:
        return True
    return entry_fit(summary, info) is EntryFit.FITS


def write_probes(
    jobs: Sequence[ProbeJob], find: Callable[[ProbeJob], bytes | None], folder: Path
) -> tuple[Path, ...]:
    """``probes.csv``, a line for each complete probe, and ``probes.sqlite``; nothing without any.

    kld: mean over all scored positions, nats. Raises OutputError, DataError.
    """
    if not jobs:
        return ()
    entries: dict[tuple[str, str], list[tuple[Probe, Scores]] | None] = {}
    for job in jobs:
        place = (job.name, job.matrix.digest if job.matrix else "")
        payload, known = find(job), entries.setdefault(place, [])
        if payload is None or known is None:
            entries[place] = None
        else:
            rows = json.loads(payload)
            known += [(Probe(**row["probe"]), Scores(**row["scores"])) for row in rows]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["unit", "type", "matrix", "chunks", "kld", "same_top"])
    with ProbeStore(folder / "probes.sqlite") as store:
        for (name, matrix), found in entries.items():
            if found:
                store.add(found)
                n = sum(s.n for _, s in found)
                kld = sum(s.kld for _, s in found) / n
                same = sum(s.same_top for _, s in found) / n
                table.writerow([*name.rsplit(" ", 1), matrix[:12], len(found), kld, same])
    write_atomically(folder / "probes.csv", text.getvalue(), what="table of probes")
    return folder / "probes.csv", folder / "probes.sqlite"
