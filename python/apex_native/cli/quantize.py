"""``apex-native quantize``: carry out a plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.calibration_options import CalibrationChoices, matrix_path
from apex_native.cli.checkpoint_options import CheckpointChoices, SourceArgument, open_model
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.hessian import HessianChoices, hessian_source, require_consistent_hessian
from apex_native.cli.model_file import loadable
from apex_native.cli.options import (
    JsonOption,
    PlanChoices,
    QuietOption,
    examples,
    spread,
)
from apex_native.cli.output import Output, exact_size
from apex_native.cli.quantize_report import check_written, show_result
from apex_native.cli.run_options import RunChoices
from apex_native.cli.several import is_several, quantize_several

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput
    from apex_native.imatrix import Imatrix
    from apex_native.plan import Plan
    from apex_native.quantization import HessianSource, PredictedFile, QuantizeManifest

__all__ = ["register"]


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
            "apex-native quantize model-bf16.gguf --tier mini --calibration diverse --hessian",
            "apex-native quantize model-bf16.gguf --plan plan.json -o model.gguf --check",
            "apex-native quantize model-bf16.gguf --type Q4_K_M --dry-run",
            "apex-native quantize model-bf16.gguf --tier i-quality,mini --calibration diverse",
            "apex-native quantize model-bf16.gguf --tier quality --resume",
            "apex-native quantize model-bf16.gguf --tier mini --device cuda --verify-gpu 0.01",
        ),
    )(spread(quantize))


def quantize(
    file: SourceArgument,
    choices: PlanChoices,
    run: RunChoices,
    calibration: CalibrationChoices,
    moments: HessianChoices,
    compute: ComputeChoices,
    checkpoint: CheckpointChoices,
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
    from apex_native.cli.plan import warn_of_findings
    from apex_native.cli.planning import pruned
    from apex_native.quantization import start_driver

    out = Output(json_mode=json_mode, quiet=quiet)
    _require_consistent(choices, run, calibration, plan_file)
    require_consistent_hessian(moments, calibration, plan_file)
    start_driver(run.device)
    if is_several(choices):
        quantize_several(out, file, choices, run, calibration, moments, compute, checkpoint)
        return
    with open_model(file, checkpoint, needs_data=not run.dry_run) as whole:
        collects = calibration.calibration is not None
        source = pruned(whole, choices.prune_layers, collects=collects)
        job = _prepare(source, choices, run, plan_file, collects=collects)
        if run.dry_run:
            _show_dry_run(out, job, _dry_run(source, job, run, imatrix_follows=collects))
            return
        if collects:
            job = _calibrated(out, source, job, choices, run, calibration, compute)
        warn_of_findings(out, job.plan.findings)
        with hessian_source(out, source, moments, calibration, compute, run.max_memory) as hessian:
            manifest = _execute(
                out, source, job, run, compute.threads, hessian, strict=choices.strict
            )
        written = manifest.findings[len(job.plan.findings) :]
        warn_of_findings(out, written)
    checked = check_written(out, manifest.files[0], compute.threads) if run.check else None
    show_result(out, job.plan, manifest, job.manifest, checked)


def _require_consistent(
    choices: PlanChoices, run: RunChoices, calibration: CalibrationChoices, plan_file: Path | None
) -> None:
    if calibration.calibration is not None and (choices.imatrix or plan_file) is not None:
        other = "--imatrix" if choices.imatrix is not None else "--plan"
        raise typer.BadParameter(
            f"makes an importance matrix of its own; leave out {other}", param_hint="--calibration"
        )
    given = [n for n in choices.given if n not in ("imatrix", "strict", "prune_layers")]
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


def _prepare(
    source: ModelInput,
    choices: PlanChoices,
    run: RunChoices,
    plan_file: Path | None,
    *,
    collects: bool,
) -> _Job:
    from apex_native.cli.planning import Planner, read_imatrix, require_writable
    from apex_native.plan import Plan
    from apex_native.reports import default_output_name

    if plan_file is None:
        # A strict plan is made when the matrix is there.
        strict = choices.strict and not collects
        planned = Planner(source, replace(choices, strict=strict)).planned()
        plan, imatrix = planned.plan, planned.imatrix
    else:
        plan = Plan.load(plan_file)
        imatrix = read_imatrix(choices.imatrix, source)
    output = run.output or Path()
    if output.is_dir():
        output = output / default_output_name(source.path.name, plan, run.name_style.value)
    manifest = None
    if not run.no_manifest:
        manifest = run.manifest or output.with_name(output.name + ".manifest.json")
        # An output that is in the way is the run's to complain of, and comes first.
        require_writable(manifest, force=run.force or output.exists())
    return _Job(plan, imatrix, output, manifest)


def _calibrated(
    out: Output,
    source: ModelInput,
    job: _Job,
    choices: PlanChoices,
    run: RunChoices,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
) -> _Job:
    """The job with an importance matrix, collected once everything else is known to be right."""
    from apex_native.cli.imatrix_report import warn_of_missing
    from apex_native.cli.planning import Planner
    from apex_native.cli.progress import imatrix_progress
    from apex_native.imatrix import calibrate

    assert calibration.calibration is not None
    _dry_run(source, job, run, imatrix_follows=True)
    path = matrix_path(job.output)
    with imatrix_progress(out) as progress:
        matrix = calibrate(
            loadable(out, source),
            calibration.calibration,
            **calibration.settings(),
            placement=compute.placement,
            output=path,
            resume=run.resume,
            force=run.force,
            progress=progress,
        )
    warn_of_missing(out, matrix, source.facts)
    out.note(f"wrote {path}")
    planned = Planner(source, replace(choices, imatrix=path)).planned()
    return replace(job, plan=planned.plan, imatrix=planned.imatrix)


def _execute(
    out: Output,
    source: ModelInput,
    job: _Job,
    run: RunChoices,
    threads: int | None,
    hessian: HessianSource | None,
    *,
    strict: bool,
) -> QuantizeManifest:
    from apex_native.cli.progress import quantize_progress
    from apex_native.quantization import quantize_model

    with quantize_progress(out, f"writing {job.output.name}") as progress:
        return quantize_model(
            source,
            job.plan,
            job.output,
            imatrix=job.imatrix,
            hessian=hessian,
            n_threads=threads,
            strict=strict,
            **run.settings(),
            manifest=job.manifest,
            progress=progress,
        )


def _dry_run(
    source: ModelInput, job: _Job, run: RunChoices, *, imatrix_follows: bool
) -> tuple[PredictedFile, ...]:
    from apex_native.quantization import dry_run

    return dry_run(
        source,
        job.plan,
        job.output,
        imatrix=job.imatrix,
        imatrix_follows=imatrix_follows,
        **run.trial_settings(),
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
