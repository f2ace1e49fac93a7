"""``apex-native inspect``: what is in a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.cache_option import CacheChoices, cache_document, show_cache
from apex_native.cli.checkpoint_options import (
    CheckpointChoices,
    SourceArgument,
    note_lines,
    open_model,
)
from apex_native.cli.options import (
    JsonOption,
    QuietOption,
    ThreadsOption,
    examples,
    spread,
)
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table
from apex_native.types import GgmlType

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput
    from apex_native.memory import ContextMemory
    from apex_native.reports import ModelFacts, RoleStatistics, StoredRow
    from apex_native.types import Classification

__all__ = ["register"]

INSPECT_SCHEMA_VERSION = 1

STATISTICS_NOTES = (
    "kurtosis: mean over the role's tensors, by weights (a Gaussian has 3)",
    "outliers: share of weights beyond 4 times the rms of their row (a Gaussian has 0.0063 %)",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "inspect",
        short_help="Show a model's facts and tensors by role.",
        epilog=examples(
            "apex-native inspect model-bf16.gguf",
            "apex-native inspect model-bf16-00001-of-00004.gguf --stats",
            "apex-native inspect model-bf16.gguf --json | jq .total_bytes",
            "apex-native inspect model.gguf --ctx 32768 --type-k q8_0 --type-v turbo4",
        ),
    )(spread(inspect))


def inspect(
    file: SourceArgument,
    checkpoint: CheckpointChoices,
    cache: CacheChoices,
    stats: Annotated[
        bool, typer.Option("--stats", help="Also read all weights: rms, max, kurtosis, outliers.")
    ] = False,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a model's facts and what its tensors weigh, by role and type.

    A header without data, or a download that is not finished, can be inspected too.
    """
    from apex_native.classification import classify_tensors
    from apex_native.reports import model_facts, stored_rows

    out = Output(json_mode=json_mode, quiet=quiet)
    with open_model(file, checkpoint, needs_data=stats) as source:
        classification = classify_tensors(source.facts)
        sizes = tuple(path.stat().st_size for path in source.shard_paths)
        facts = model_facts(classification, file_bytes=sizes)
        missing = source.missing_data
        notes = note_lines(source)
        rows = stored_rows(classification)
        statistics = _statistics(source, classification, threads) if stats else ()
        document = _document(source, classification, facts, rows, statistics)
        memory = _memory(source, cache)
    for warning in classification.warnings:
        out.warning(warning)
    if memory is not None:
        document["cache"] = cache_document(memory)
    out.document(document)
    for label, value in _fact_lines(facts):
        out.text(f"{label:<14}{value}")
    for line in notes:
        out.text(line)
    if missing is not None:
        # Without the file's name, which the command has.
        found = missing.rpartition(": ")[2]
        out.text(f"{'note':<14}{found}: can be planned, not quantized")
    out.text()
    out.table(_stored_table(rows, facts))
    if stats:
        out.text()
        out.table(_statistics_table(statistics))
    if memory is not None:
        show_cache(out, memory)


def _memory(source: ModelInput, cache: CacheChoices) -> ContextMemory | None:
    if cache.ctx is None:
        return None
    from apex_native.memory import ContextSettings, context_memory

    types = GgmlType.parse(cache.type_k), GgmlType.parse(cache.type_v)
    return context_memory(source, ContextSettings(cache.ctx, *types))


def _statistics(
    source: ModelInput, classification: Classification, threads: int | None
) -> tuple[RoleStatistics, ...]:
    from apex_native.reports import role_statistics

    # Tables of token ids (I32) are no weights.
    tensors = [t for t in classification.tensors if t.info.type.is_target and t.info.nbytes]
    found = source.statistics([tensor.name for tensor in tensors], n_threads=threads)
    return role_statistics(
        (tensor.role, values) for tensor, values in zip(tensors, found, strict=True)
    )


def _fact_lines(facts: ModelFacts) -> list[tuple[str, str]]:
    mtp = f" + {facts.n_mtp_layer} for multi-token prediction" if facts.n_mtp_layer else ""
    experts = "none"
    if facts.n_expert:
        shared = f", {facts.n_shared_experts} shared" if facts.n_shared_experts else ""
        experts = f"{facts.n_expert} per layer, {facts.n_expert_used} used by a token{shared}"
    lines = [
        ("architecture", facts.architecture or "not stated"),
        ("name", facts.name or "not stated"),
        ("layers", f"{facts.n_layer}{mtp}"),
        ("experts", experts),
        ("context", _or_unknown(facts.context_length, "tokens")),
        ("vocabulary", _or_unknown(facts.n_vocab, "tokens")),
        ("weights", f"{facts.n_weights:,} in {facts.n_tensors} tensors"),
        ("size", exact_size(facts.total_bytes) + ("" if facts.has_data else " with its data")),
        ("files", str(len(facts.file_bytes))),
        ("source types", ", ".join(f"{type} ×{n}" for type, n in facts.source_types)),
        ("alignment", f"{facts.alignment} bytes"),
    ]
    if facts.kind != "model":
        lines.insert(1, ("kind", facts.kind))
    return lines


def _or_unknown(count: int | None, unit: str) -> str:
    return "not stated" if count is None else f"{count:,} {unit}"


def _stored_table(rows: tuple[StoredRow, ...], facts: ModelFacts) -> Table:
    columns = (
        Column("role"),
        Column("type"),
        Column("tensors", right=True, drop=2),
        Column("weights", right=True, drop=3),
        Column("bytes", right=True, drop=1),
        Column("share", right=True),
    )
    total = sum(row.nbytes for row in rows)
    cells = [
        (
            row.role.value,
            row.type.name,
            str(row.n_tensors),
            f"{row.n_weights:,}",
            f"{row.nbytes:,}",
            f"{row.nbytes / max(total, 1):.1%}",
        )
        for row in rows
    ]
    footer = ("all", "", str(facts.n_tensors), f"{facts.n_weights:,}", f"{total:,}", "")
    return Table(columns, cells, footer)


def _statistics_table(statistics: tuple[RoleStatistics, ...]) -> Table:
    columns = (
        Column("role"),
        Column("tensors", right=True, drop=4),
        Column("weights", right=True, drop=3),
        Column("rms", right=True),
        Column("max", right=True, drop=2),
        Column("kurtosis", right=True, drop=1),
        Column("outliers", right=True),
    )
    cells = [
        (
            row.role.value,
            str(row.n_tensors),
            f"{row.n_weights:,}",
            f"{row.rms:.4g}",
            f"{row.max_abs:.4g}",
            f"{row.kurtosis:.2f}",
            f"{row.outlier_share:.4%}",
        )
        for row in statistics
    ]
    return Table(columns, cells, notes=STATISTICS_NOTES)


def _document(
    source: ModelInput,
    classification: Classification,
    facts: ModelFacts,
    rows: tuple[StoredRow, ...],
    statistics: tuple[RoleStatistics, ...],
) -> dict[str, Any]:
    values = asdict(facts)
    values["source_types"] = dict(facts.source_types)
    values["files"] = [
        {"path": str(path), "bytes": size}
        for path, size in zip(source.shard_paths, values.pop("file_bytes"), strict=True)
    ]
    return {
        "schema_version": INSPECT_SCHEMA_VERSION,
        **values,
        "warnings": list(classification.warnings),
        "also": list(getattr(source, "notes", ())),
        "roles": [
            {
                "role": row.role.value,
                "type": row.type.name,
                "tensors": row.n_tensors,
                "weights": row.n_weights,
                "bytes": row.nbytes,
            }
            for row in rows
        ],
        "statistics": [{**asdict(row), "role": row.role.value} for row in statistics],
        "tensors": [
            {
                "name": tensor.name,
                "role": tensor.role.value,
                "layer": tensor.layer,
                "is_mtp": tensor.is_mtp,
                "shape": list(tensor.info.shape),
                "type": tensor.info.type.name,
                "bytes": tensor.info.nbytes,
                "rule": tensor.rule,
            }
            for tensor in classification.tensors
        ],
    }
