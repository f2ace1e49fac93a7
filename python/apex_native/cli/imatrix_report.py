"""What `imatrix` prints of a matrix: what it holds, which experts it saw, its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.imatrix import Coverage, Imatrix, MissingData, TensorStatistics
    from apex_native.types import GgufFacts

__all__ = ["show_matrix", "warn_of_missing"]

MOST_NAMED = 8
"""Missing tensors that are named one by one; the rest is counted."""

MOST_LISTED = 12
"""Experts listed by name; JSON has all of them."""

_FIGURES = (
    *("Σ(act²)", "active", "mean", "max", "CosSim", "ZD", "σ", "min", "N"),
    *("E (norm)", "entropy"),
)
"""What a narrow terminal keeps first."""


def show_matrix(
    out: Output,
    matrix: Imatrix,
    missing: Sequence[MissingData],
    *,
    wanted: int = 0,
    statistics: bool = False,
) -> None:
    """Print a matrix, with upstream's figures where statistics is set.

    wanted: tokens every expert was to see; the end of the collection is explained by it.
    """
    from apex_native.imatrix import expert_coverage, layer_statistics, tensor_statistics

    coverage = expert_coverage(matrix)
    rows = tensor_statistics(matrix) if statistics else ()
    layers = layer_statistics(rows)
    out.document(
        {
            "path": str(matrix.path),
            "sha256": matrix.sha256,
            "entries": len(matrix.entries),
            "chunk_count": matrix.chunk_count,
            "chunk_size": matrix.chunk_size,
            "datasets": list(matrix.datasets),
            "settings": dict(matrix.settings),
            "coverage": coverage.to_dict(),
            "missing": [asdict(item) for item in missing],
            "statistics": [asdict(row) for row in rows],
            "layer_statistics": [asdict(row) for row in layers],
        }
    )
    if out.quiet and not statistics:
        out.text(str(matrix.path))
        return
    if statistics:
        _show_statistics(out, rows)
    if coverage.routers:
        out.table(_coverage_table(coverage))
        out.text()
    _explain_end(out, matrix, coverage, wanted)
    chunks = "chunk" if matrix.chunk_count == 1 else "chunks"
    out.text(
        f"{matrix.path}: {len(matrix.entries)} tensors, {matrix.chunk_count} {chunks} of "
        f"{matrix.chunk_size or 'unknown'} tokens"
    )


def _explain_end(out: Output, matrix: Imatrix, coverage: Coverage, wanted: int) -> None:
    least = coverage.least_tokens
    if wanted < 1 or least is None:
        return
    if least >= wanted:
        out.text(f"every expert has seen at least {least:,} tokens; {wanted:,} were asked for")
        return
    few = sum(int((router.counts < wanted).sum()) for router in coverage.routers)
    out.warning(
        f"{few} of {coverage.n_experts} experts saw fewer than the {wanted:,} tokens asked for: "
        f"text or --chunks ended after {matrix.chunk_count} chunks"
    )


def _coverage_table(coverage: Coverage) -> Table:
    columns = (
        Column("layer", right=True),
        Column("experts", right=True, drop=4),
        Column("fewest tokens", right=True),
        Column("mean", right=True),
        Column("most", right=True, drop=1),
        Column("largest share", right=True, drop=3),
        Column("Gini", right=True, drop=2),
        Column("never hit", wraps=True),
    )
    rows = [
        (
            str(router.layer),
            str(router.n_experts),
            f"{int(router.counts.min()):,}",
            f"{router.counts.mean():,.0f}",
            f"{int(router.counts.max()):,}",
            f"{router.shares.max():.1%}",
            f"{router.gini:.3f}",
            _listed([str(expert) for expert in router.never_hit]) or "–",
        )
        for router in coverage.routers
    ]
    tail = [f"{layer}/{expert} ({count:,})" for layer, expert, count in coverage.least_hit()]
    note = f"least-hit 1 %, layer/expert (tokens): {_listed(tail)}"
    return Table(columns, rows, notes=(note,))


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _show_statistics(out: Output, rows: Sequence[TensorStatistics]) -> None:
    from apex_native.imatrix import layer_statistics

    out.table(_tensor_table(rows))
    out.text()
    columns = (
        Column("layer", right=True),
        Column("mean Σ(act²)", right=True),
        Column("mean ZD", right=True),
        Column("mean CosSim", right=True),
    )
    cells = [
        (str(row.layer), f"{row.total:.2f}", f"{row.zd:.4%}", f"{row.cos_sim:.4f}")
        for row in layer_statistics(rows)
    ]
    out.table(Table(columns, cells))
    out.text()


def _tensor_table(rows: Sequence[TensorStatistics]) -> Table:
    names = ("Σ(act²)", "min", "max", "mean", "σ", "active", "N", "entropy", "E (norm)")
    columns = (
        Column("layer", right=True),
        Column("tensor", wraps=True),
        *(Column(name, right=True, drop=_FIGURES.index(name)) for name in (*names, "ZD", "CosSim")),
    )
    cells = [
        (
            str(row.layer) if row.layer >= 0 else "-",
            row.tensor,
            f"{row.total:.2f}",
            f"{row.min:.4f}",
            f"{row.max:.4f}",
            f"{row.mean:.2f}",
            f"{row.std:.2f}",
            f"{row.active:.2%}",
            str(row.n),
            f"{row.entropy:.4f}",
            f"{row.entropy_norm:.2%}",
            f"{row.zd:.2%}",
            f"{row.cos_sim:.4f}",
        )
        for row in rows
    ]
    return Table(columns, cells)


def warn_of_missing(out: Output, imatrix: Imatrix, facts: GgufFacts) -> list[MissingData]:
    """Name what the matrix says nothing about."""
    from apex_native.imatrix import missing_data

    missing = missing_data(imatrix, facts)
    for item in missing[:MOST_NAMED]:
        out.warning(f"no data for {item.tensor}: {item.reason}")
    if len(missing) > MOST_NAMED:
        out.warning(f"no data for {len(missing) - MOST_NAMED} more; --json lists them")
    return missing
