"""What `quantize` says of a finished run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.cli.hessian import output_error_table
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.api import LoadCheck
    from apex_native.plan import Plan
    from apex_native.quantization import QuantizeManifest

__all__ = ["check_written", "show_result"]


def check_written(out: Output, path: Path, threads: int | None) -> LoadCheck:
    """Load a written file in llama.cpp and compute a short text; warn of matrices of one value."""
    from apex_native.api import check_load
    from apex_native.demo_text import SANITY_SEED, demo_text

    checked = check_load(path, demo_text(400, seed=SANITY_SEED), n_threads=threads)
    if checked.zero_tensors:
        names = checked.zero_tensors
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        out.warning(f"{names[0]}{more}: all weights have one value")
    return checked


def show_result(
    out: Output,
    plan: Plan,
    manifest: QuantizeManifest,
    manifest_path: Path | None,
    checked: LoadCheck | None,
) -> None:
    """The error of each role, size and speed, the check, and what was written."""
    if out.json_mode:
        extra = {} if checked is None else {"check": asdict(checked)}
        out.document({**manifest.to_dict(), **extra})
        return
    if out.quiet:
        for path in manifest.files:
            out.text(str(path))
        return
    out.table(_summary(plan, manifest))
    out.text()
    if manifest.hessian_digest is not None:
        out.table(output_error_table(manifest))
        out.text()
    speed = sum(row.source_type.tensor_bytes(row.shape) for row in manifest.tensors)
    resumed = f", {manifest.resumed_tensors} tensors resumed" if manifest.resumed_tensors else ""
    out.text(
        f"{exact_size(manifest.total_bytes)}, {manifest.bpw:.3f} bits per weight, in "
        f"{manifest.elapsed_s:.1f} s ({speed / manifest.elapsed_s / 1e6:.0f} MB/s of source, "
        f"{_threads(manifest.n_threads)}{resumed})"
    )
    if manifest.device_rows:
        out.text(
            f"{manifest.device_rows:,} rows were quantized on GPUs; the CPU did "
            f"{manifest.verified_rows:,} of them again and found the same bytes"
        )
    if checked is not None:
        out.text(f"llama.cpp loads it ({checked.description}): {_computed(checked)}")
    for path in manifest.files:
        out.text(f"wrote {path}")
    if manifest_path is not None:
        out.text(f"wrote {manifest_path}")


def _summary(plan: Plan, manifest: QuantizeManifest) -> Table:
    from apex_native.reports import role_layouts

    errors = {row.role: row.relative_rmse for row in manifest.errors_by_role()}
    rows = [
        (
            row.role.value,
            row.types,
            f"{row.nbytes:,}",
            f"{errors[row.role]:.3%}" if row.role in errors else "exact",
        )
        for row in role_layouts(plan)
    ]
    columns = (
        Column("role"),
        Column("types by layer", wraps=True),
        Column("bytes", right=True, drop=1),
        Column("relative RMSE", right=True),
    )
    return Table(columns, rows)


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _computed(checked: LoadCheck) -> str:
    if checked.mean_nll is None:
        if checked.kind == "encoder":
            return f"an encoder that computes {checked.n_tokens} tokens"
        return f"computes {checked.n_tokens} tokens; it has no vocabulary to judge a text by"
    of = "of the text it read" if checked.kind == "encoder-decoder" else "of a short text"
    return (
        f"{checked.mean_nll:.3f} nats per token over {checked.n_tokens} tokens {of}, a sign of "
        "life and no benchmark"
    )
