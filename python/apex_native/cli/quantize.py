"""``apex-native quantize``: carry out a plan."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.calibrating import CalibrationChoices
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.options import (
    RUN,
    ForceOption,
    JsonOption,
    ModelArgument,
    PlanChoices,
    QuietOption,
    examples,
    parse_size,
    spread,
)
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.api import LoadCheck
    from apex_native.gguf import GgufFile
    from apex_native.imatrix import Imatrix
    from apex_native.plan import Plan
    from apex_native.quantization import PredictedFile, QuantizeManifest

__all__ = ["register"]


@dataclass(frozen=True)
class RunChoices:
    """How to run: nothing here changes a byte of tensor data."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.gguf",
            help="The file to write; default: named after model and recipe, in this folder.",
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda|cuda:N|cuda:all",
            rich_help_panel=RUN,
            help="Quantize on GPUs what they have kernels for; the bytes are the CPU's.",
        ),
    ] = "cpu"
    verify_gpu: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="RATE",
            show_default="0",
            rich_help_panel=RUN,
            help="Share of the GPUs' rows to quantize again on the CPU and compare.",
        ),
    ] = 0.0
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            show_default="2G",
            rich_help_panel=RUN,
            help="Memory for buffers, above the mapped input.",
        ),
    ] = None
    split_max_size: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            rich_help_panel=RUN,
            help="Write shards of at most SIZE of tensor data (48G, 50GB).",
        ),
    ] = None
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            rich_help_panel=RUN,
            help="Accept a source that is quantized already, and the added error.",
        ),
    ] = False
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=RUN, help="Go on with an interrupted run."),
    ] = False
    force: ForceOption = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=RUN,
            help="Check everything, show plan and size, write nothing.",
        ),
    ] = False
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="PATH",
            show_default="OUT.gguf.manifest.json",
            help="Where to record each tensor's type, bytes and error.",
        ),
    ] = None
    no_manifest: Annotated[bool, typer.Option("--no-manifest", help="Write no manifest.")] = False
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Load the result in llama.cpp and decode a short text."
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class _Job:
    """A run, ready to go."""

    plan: Plan
    imatrix: Imatrix | None
    output: Path
    manifest: Path | None


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "quantize",
        short_help="Write a quantized GGUF.",
        epilog=examples(
            "apex-native quantize model-bf16.gguf --tier quality",
            "apex-native quantize model-bf16.gguf --tier mini --imatrix imatrix.gguf -o mini.gguf",
            "apex-native quantize model-bf16.gguf --tier i-quality --calibration diverse",
            "apex-native quantize model-bf16.gguf --plan plan.json -o model.gguf --check",
            "apex-native quantize model-bf16.gguf --type Q4_K_M --dry-run",
            "apex-native quantize model-bf16.gguf --tier quality --resume",
            "apex-native quantize model-bf16.gguf --tier mini --device cuda --verify-gpu 0.01",
        ),
    )(spread(quantize))


def quantize(
    file: ModelArgument,
    choices: PlanChoices,
    run: RunChoices,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="plan.json", help="A plan that `plan -o` saved."),
    ] = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a quantized GGUF, each tensor in the type that the plan gives it.

    Safe to interrupt: the file appears under its name when it is whole; --resume goes on.
    """
    from apex_native.gguf import open_gguf
    from apex_native.quantization import start_driver

    out = Output(json_mode=json_mode, quiet=quiet)
    _require_consistent(choices, run, calibration, plan_file)
    start_driver(run.device)
    with open_gguf(file) as source:
        job = _prepare(source, choices, run, plan_file)
        if run.dry_run:
            follows = calibration.calibration is not None
            _show_dry_run(out, job, _dry_run(source, job, run, imatrix_follows=follows))
            return
        if calibration.calibration is not None:
            job = _calibrated(out, source, job, choices, run, calibration, compute)
        manifest = _execute(out, source, job, run, compute.threads)
    if job.manifest is not None:
        manifest.save(job.manifest)
    checked = _check(manifest.files[0], compute.threads) if run.check else None
    _show_result(out, job, manifest, checked)


def _require_consistent(
    choices: PlanChoices, run: RunChoices, calibration: CalibrationChoices, plan_file: Path | None
) -> None:
    if calibration.calibration is not None and (choices.imatrix or plan_file) is not None:
        other = "--imatrix" if choices.imatrix is not None else "--plan"
        raise typer.BadParameter(
            f"makes an importance matrix of its own; leave out {other}", param_hint="--calibration"
        )
    given = [name for name in choices.given if name != "imatrix"]
    if plan_file is not None and given:
        option = "--type" if given[0] == "ftype" else "--" + given[0].replace("_", "-")
        raise typer.BadParameter(
            f"a plan decides everything already; leave out {option} or make another plan",
            param_hint="--plan",
        )
    if run.manifest is not None and run.no_manifest:
        raise typer.BadParameter(
            "contradicts --no-manifest; leave one out", param_hint="--manifest"
        )
    if run.resume and run.force:
        raise typer.BadParameter(
            "goes on with a run, --force starts again; leave one out", param_hint="--resume"
        )


def _prepare(
    source: GgufFile, choices: PlanChoices, run: RunChoices, plan_file: Path | None
) -> _Job:
    from apex_native.cli.planning import Planner, require_writable, weighted_imatrix
    from apex_native.plan import Plan
    from apex_native.reports import default_output_name

    if plan_file is None:
        planned = Planner(source, choices).planned()
        plan, imatrix = planned.plan, planned.imatrix
    else:
        plan = Plan.load(plan_file)
        imatrix = weighted_imatrix(choices.imatrix, plan.imatrix_prior or "none")
    output = run.output or Path()
    if output.is_dir():
        output = output / default_output_name(source.path.name, plan)
    manifest = None
    if not run.no_manifest:
        manifest = run.manifest or output.with_name(output.name + ".manifest.json")
        # An output that is in the way is the run's to complain of, and comes first.
        require_writable(manifest, force=run.force or output.exists())
    return _Job(plan, imatrix, output, manifest)


def _calibrated(
    out: Output,
    source: GgufFile,
    job: _Job,
    choices: PlanChoices,
    run: RunChoices,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
) -> _Job:
    """The job with an importance matrix, collected once everything else is known to be right."""
    from apex_native.cli.calibrating import calibrate
    from apex_native.cli.planning import Planner

    _dry_run(source, job, run, imatrix_follows=True)
    path = calibrate(
        out, source, job.output, calibration, compute, resume=run.resume, force=run.force
    )
    planned = Planner(source, replace(choices, imatrix=path)).planned()
    return replace(job, plan=planned.plan, imatrix=planned.imatrix)


def _execute(
    out: Output, source: GgufFile, job: _Job, run: RunChoices, threads: int | None
) -> QuantizeManifest:
    from apex_native.cli.progress import quantize_progress
    from apex_native.quantization import DEFAULT_MAX_MEMORY, quantize_model

    with quantize_progress(out, f"writing {job.output.name}") as progress:
        return quantize_model(
            source,
            job.plan,
            job.output,
            imatrix=job.imatrix,
            n_threads=threads,
            max_memory=run.max_memory or DEFAULT_MAX_MEMORY,
            split_max_size=run.split_max_size,
            allow_requantize=run.allow_requantize,
            resume=run.resume,
            force=run.force,
            device=run.device,
            verify_gpu=run.verify_gpu,
            progress=progress,
        )


def _check(path: Path, threads: int | None) -> LoadCheck:
    from apex_native.api import check_load
    from apex_native.demo_text import SANITY_SEED, demo_text

    return check_load(path, demo_text(400, seed=SANITY_SEED), n_threads=threads)


def _dry_run(
    source: GgufFile, job: _Job, run: RunChoices, *, imatrix_follows: bool
) -> tuple[PredictedFile, ...]:
    from apex_native.quantization import dry_run

    return dry_run(
        source,
        job.plan,
        job.output,
        imatrix=job.imatrix,
        split_max_size=run.split_max_size,
        allow_requantize=run.allow_requantize,
        force=run.force or run.resume,
        imatrix_follows=imatrix_follows,
    )


def _show_dry_run(out: Output, job: _Job, files: tuple[PredictedFile, ...]) -> None:
    from apex_native.cli.plan import show_findings, show_plan

    show_plan(out, job.plan)
    show_findings(out, job.plan)
    document = {
        **json.loads(job.plan.to_json()),
        "files": [{"path": str(file.path), "bytes": file.nbytes} for file in files],
    }
    out.document(document)
    out.text()
    for file in files:
        out.text(f"would write {file.path}: {exact_size(file.nbytes)}")
    out.note("dry run: there is room for it on the disk, nothing was written")


def _show_result(
    out: Output, job: _Job, manifest: QuantizeManifest, checked: LoadCheck | None
) -> None:
    if out.json_mode:
        extra = {} if checked is None else {"check": asdict(checked)}
        out.document({**manifest.to_dict(), **extra})
        return
    if out.quiet:
        for path in manifest.files:
            out.text(str(path))
        return
    out.table(_summary(job.plan, manifest))
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
        out.text(
            f"llama.cpp loads it ({checked.description}): {checked.mean_nll:.3f} nats per token "
            f"over {checked.n_tokens} tokens of a short text, a sign of life and no benchmark"
        )
    for path in manifest.files:
        out.text(f"wrote {path}")
    if job.manifest is not None:
        out.text(f"wrote {job.manifest}")


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
        Column("bytes", right=True),
        Column("relative RMSE", right=True),
    )
    return Table(columns, rows)


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
