"""``apex-native quantize --tier a,b,c``: several files from one reading of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from apex_native.cli.calibration_options import CalibrationChoices
from apex_native.cli.checkpoint_options import CheckpointChoices, open_model
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.hessian import HessianChoices, hessian_source
from apex_native.cli.model_file import loadable
from apex_native.cli.options import PlanChoices
from apex_native.cli.output import Output, exact_size
from apex_native.cli.quantize_report import check_written
from apex_native.cli.run_options import RunChoices
from apex_native.cli.tables import Column, Table
from apex_native.printable import counted

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput
    from apex_native.imatrix import Imatrix
    from apex_native.plan import Plan
    from apex_native.quantization import HessianSource, QuantizeManifest

__all__ = ["is_several", "quantize_several"]

ALL = "all"


@dataclass(frozen=True, slots=True)
class _File:
    """One of the files: what to make and where."""

    plan: Plan
    imatrix: Imatrix | None
    output: Path

    @property
    def manifest(self) -> Path:
        return self.output.with_name(self.output.name + ".manifest.json")


def is_several(choices: PlanChoices) -> bool:
    """More than one recipe was asked for."""
    return choices.tier == ALL or any("," in (name or "") for name in (choices.tier, choices.ftype))


def quantize_several(
    out: Output,
    file: Path,
    choices: PlanChoices,
    run: RunChoices,
    calibration: CalibrationChoices,
    moments: HessianChoices,
    compute: ComputeChoices,
    checkpoint: CheckpointChoices,
) -> None:
    """Plan all, collect one importance matrix if asked, write all files, show what they cost."""
    from apex_native.cli.plan import warn_of_findings
    from apex_native.cli.planning import pruned

    folder = _folder(run)
    recipes = _recipes(choices)
    with open_model(file, checkpoint, needs_data=not run.dry_run) as whole:
        collects = calibration.calibration is not None
        source = pruned(whole, choices.prune_layers, collects=collects)
        if not run.dry_run:
            folder.mkdir(parents=True, exist_ok=True)
        files = _files(source, recipes, run, folder, collects=collects)
        predicted = _dry_run(source, files, run, imatrix_follows=collects)
        if run.dry_run:
            _show_dry_run(out, files, predicted)
            return
        if collects:
            matrix = _collect(out, source, run, calibration, compute, folder)
            recipes = [_with_matrix(recipe, recipes, matrix) for recipe in recipes]
            files = _files(source, recipes, run, folder, collects=False)
        every = [finding for entry in files for finding in entry.plan.findings]
        warn_of_findings(out, list(dict.fromkeys(every)))
        with hessian_source(out, source, moments, calibration, compute, run.max_memory) as hessian:
            manifests = _execute(out, source, files, run, compute.threads, hessian, choices.strict)
    for manifest in manifests:
        if run.check:
            check_written(out, manifest.files[0], compute.threads)
    _show(out, manifests, skipped=len(files) - len(manifests))


def _folder(run: RunChoices) -> Path:
    folder = run.output or Path()
    if folder.suffix == ".gguf" or folder.is_file():
        raise typer.BadParameter(
            f"{folder} is no folder; several files are named after their recipes, give a folder",
            param_hint="--output",
        )
    if run.manifest is not None:
        raise typer.BadParameter(
            "names one file; each of several has its manifest beside it", param_hint="--manifest"
        )
    return folder


def _recipes(choices: PlanChoices) -> list[PlanChoices]:
    """One set of choices a recipe; a matrix goes to those that would use it alone.

    Where a tier is asked for with and without its matrix, the one without does without.
    """
    from apex_native.plan import tier_names

    if choices.tier is not None:
        names = tier_names() if choices.tier == ALL else _names("--tier", choices.tier)
        recipes = [replace(choices, tier=name) for name in names]
    else:
        names = _names("--type", choices.ftype or "")
        recipes = [replace(choices, ftype=name) for name in names]
    return [_with_matrix(recipe, recipes, choices.imatrix) for recipe in recipes]


def _names(option: str, text: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter(f"'{text}' names no recipe", param_hint=option)
    if len(set(names)) < len(names):
        raise typer.BadParameter("names a recipe twice", param_hint=option)
    return names


def _with_matrix(
    recipe: PlanChoices, recipes: Sequence[PlanChoices], matrix: Path | None
) -> PlanChoices:
    twin = any(other.tier == f"i-{recipe.tier}" for other in recipes)
    return replace(recipe, imatrix=None if twin else matrix)


def _files(
    source: ModelInput,
    recipes: Sequence[PlanChoices],
    run: RunChoices,
    folder: Path,
    *,
    collects: bool,
) -> list[_File]:
    from apex_native.cli.planning import Planner
    from apex_native.reports import default_output_name

    files = []
    for recipe in recipes:
        strict = recipe.strict and not collects
        planned = Planner(source, replace(recipe, strict=strict)).planned()
        name = default_output_name(source.path.name, planned.plan, run.name_style.value)
        files.append(_File(planned.plan, planned.imatrix, folder / name))
    return files


def _dry_run(
    source: ModelInput, files: Sequence[_File], run: RunChoices, *, imatrix_follows: bool
) -> int:
    """Bytes of all files; raises what a run would before it starts."""
    import shutil

    from apex_native.errors import OutputError
    from apex_native.quantization import dry_run

    total = 0
    wanted = files[0].output.parent
    folder = next(path for path in (wanted, *wanted.absolute().parents) if path.is_dir())
    settings = run.trial_settings()
    if folder != wanted:  # which a trial run does not make, and where nothing is in the way
        settings["force"] = True
    for file in files:
        shards = dry_run(
            source,
            file.plan,
            folder / file.output.name,
            imatrix=file.imatrix,
            imatrix_follows=imatrix_follows,
            **settings,
        )
        total += sum(shard.nbytes for shard in shards)
    free = shutil.disk_usage(folder).free
    if total > free and not run.resume:
        raise OutputError(
            f"{folder.absolute()} has {free:,} bytes free, the {len(files)} files need {total:,}; "
            "free some space or write to another disk"
        )
    return total


def _collect(
    out: Output,
    source: ModelInput,
    run: RunChoices,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
    folder: Path,
) -> Path:
    from apex_native.cli.imatrix_report import warn_of_missing
    from apex_native.cli.progress import imatrix_progress
    from apex_native.imatrix import calibrate

    assert calibration.calibration is not None
    path = folder / (source.path.name.removesuffix(".gguf") + ".imatrix.gguf")
    if run.resume and path.exists():
        return path
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
    return path


def _execute(
    out: Output,
    source: ModelInput,
    files: Sequence[_File],
    run: RunChoices,
    threads: int | None,
    hessian: HessianSource | None,
    strict: bool,
) -> tuple[QuantizeManifest, ...]:
    from apex_native.cli.progress import quantize_progress
    from apex_native.quantization import QuantizeTarget, quantize_many

    targets = [
        QuantizeTarget(
            file.plan,
            file.output,
            file.imatrix,
            manifest=None if run.no_manifest else file.manifest,
        )
        for file in files
    ]
    with quantize_progress(out, f"writing {len(files)} files") as progress:
        return quantize_many(
            source,
            targets,
            hessian=hessian,
            n_threads=threads,
            strict=strict,
            **run.settings(),
            progress=progress,
        )


def _show_dry_run(out: Output, files: Sequence[_File], total: int) -> None:
    out.document(
        {
            "files": [
                {"path": str(file.output), "bytes": file.plan.total_bytes, "bpw": file.plan.bpw}
                for file in files
            ],
            "total_bytes": total,
        }
    )
    rows = [
        (file.output.name, f"{file.plan.total_bytes:,}", f"{file.plan.bpw:.3f}") for file in files
    ]
    columns = (Column("file", wraps=True), Column("bytes", right=True), Column("bpw", right=True))
    out.table(Table(columns, rows, ("all", f"{total:,}", "")))
    out.note("dry run: there is room for them on the disk, nothing was written")


def _show(out: Output, manifests: Sequence[QuantizeManifest], *, skipped: int) -> None:
    if out.json_mode:
        out.document({"outputs": [manifest.to_dict() for manifest in manifests]})
        return
    if out.quiet:
        for manifest in manifests:
            for path in manifest.files:
                out.text(str(path))
        return
    columns = (
        Column("file", wraps=True),
        Column("bytes", right=True),
        Column("bpw", right=True, drop=2),
        Column("relative RMSE", right=True, drop=1),
    )
    rows = [
        (
            manifest.files[0].name,
            f"{manifest.total_bytes:,}",
            f"{manifest.bpw:.3f}",
            f"{_relative_rmse(manifest):.3%}",
        )
        for manifest in manifests
    ]
    if skipped:
        out.text(f"{counted(skipped, 'file')} whole already, left as they are")
    if manifests:
        out.table(Table(columns, rows))
        total = sum(manifest.total_bytes for manifest in manifests)
        seconds = max(manifest.elapsed_s for manifest in manifests)
        out.text()
        out.text(f"{counted(len(manifests), 'file')}, {exact_size(total)}, in {seconds:.1f} s")


def _relative_rmse(manifest: QuantizeManifest) -> float:
    error = sum(tensor.squared_error for tensor in manifest.tensors)
    weights = sum(tensor.squared_weights for tensor in manifest.tensors)
    return float((error / weights) ** 0.5) if weights else 0.0
