"""``apex-native search``: the best types for a size, measured."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.atomic_write import require_place
from apex_native.cli.calibration_options import CalibrationChoices
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.hessian import HessianChoices
from apex_native.cli.options import (
    ForceOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    examples,
    spread,
)
from apex_native.cli.output import Output
from apex_native.cli.search_options import BudgetChoices, RuleChoices, SearchTextChoices

if TYPE_CHECKING:
    from apex_native.allocation import BudgetOutcome, SearchOutcome, SearchRequest
    from apex_native.gguf import GgufFile
    from apex_native.imatrix import Hessian, Imatrix

__all__ = ["register"]


@dataclass(frozen=True)
class SearchOutput:
    """Where results go."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The file to write for one budget; the folder for several, which then holds "
            "NAME-<budget bytes>.gguf. Default: the current folder.",
        ),
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep measurements here: an interrupted search goes on from them, another budget "
            "needs fewer.",
        ),
    ] = None
    no_file: Annotated[
        bool,
        typer.Option("--no-file", help="Search only: write recipe and report, no model."),
    ] = False


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "search",
        short_help="Find the best types for a size, by measuring.",
        epilog=examples(
            "apex-native search model-bf16.gguf --budget 12.2GiB -o model-APEX-12.2.gguf",
            "apex-native search model-bf16.gguf --budget 21GiB,16GiB --text domains/ -o plans/",
            "apex-native search model-bf16.gguf --fit 16GiB --ctx 32768 --type-v q8_0",
            "apex-native search model-bf16.gguf -b 16GiB --imatrix imatrix.gguf --store kept/",
            "apex-native search model-bf16.gguf -b 16GiB --hessian",
        ),
    )(spread(search))


def search(
    file: ModelArgument,
    budgets: BudgetChoices,
    texts: SearchTextChoices,
    calibration: CalibrationChoices,
    moments: HessianChoices,
    rules: RuleChoices,
    output: SearchOutput,
    compute: ComputeChoices,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the types that change a model least at a given file size, and write the file.

    Every kind of tensor of every layer is quantized alone in memory and compared with the source on
    your text; the best combination for the size is solved for, the best few are measured, and the
    result is compared with all fixed recipes on text that nothing was chosen on.
    """
    from apex_native.gguf import open_gguf

    out = Output(json_mode=json_mode, quiet=quiet)
    started = time.monotonic()
    with open_gguf(file) as source:
        from apex_native.allocation import ProbeStore, check_budgets
        from apex_native.cli.search_inputs import (
            make_request,
            output_paths,
            search_hessian,
            search_matrix,
        )

        request = make_request(out, source, budgets, texts, rules, compute)
        paths = output_paths(source, output.output, request.budgets)
        _require_fresh(paths, output, force=force)
        for line in check_budgets(source, request):
            out.warning(line)
        if not output.no_file:
            require_place(paths[0], sum(request.budgets))  # before an hour of measuring
        if output.store is not None:
            ProbeStore(output.store).close()  # a bad place is known before the calibration
        imatrix, hessian_file = search_matrix(
            out, source, paths, texts.imatrix, calibration, moments, compute
        )
        with search_hessian(hessian_file) as hessian:
            outcome = _search(out, source, request, imatrix, hessian, output.store)
            written = [
                _write(out, source, found, imatrix, hessian, path, compute, output, force=force)
                for found, path in zip(outcome.budgets, paths, strict=True)
            ]
    _show(out, outcome, written, time.monotonic() - started)


def _require_fresh(paths: list[Path], output: SearchOutput, *, force: bool) -> None:
    from apex_native.cli.search_tables import recipe_path
    from apex_native.errors import OutputError

    for path in paths:
        path = recipe_path(path) if output.no_file else path
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another name or pass --force")


def _search(
    out: Output,
    source: GgufFile,
    request: SearchRequest,
    imatrix: Imatrix | None,
    hessian: Hessian | None,
    store: Path | None,
) -> SearchOutcome:
    from apex_native.allocation import search_types
    from apex_native.cli.progress import step_progress

    try:
        with step_progress(out) as progress:
            return search_types(
                source, request, imatrix, hessian=hessian, store=store, progress=progress
            )
    except KeyboardInterrupt as stop:
        stop.add_note(
            "what was measured is lost; --store DIR would keep it"
            if store is None
            else f"what was measured is kept in {store}; the same command goes on from it"
        )
        raise


def _write(
    out: Output,
    source: GgufFile,
    found: BudgetOutcome,
    imatrix: Imatrix | None,
    hessian: Hessian | None,
    path: Path,
    compute: ComputeChoices,
    output: SearchOutput,
    *,
    force: bool,
) -> Path:
    from apex_native.allocation import recipe_text, save_bits
    from apex_native.atomic_write import write_atomically
    from apex_native.cli.progress import quantize_progress
    from apex_native.cli.search_tables import picture_path, recipe_path
    from apex_native.quantization import quantize_model

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        recipe_path(path),
        recipe_text(found.plan, path.name.removesuffix(".gguf")),
        what="recipe",
        advice="free the place or choose another with -o",
    )
    save_bits(found.plan, picture_path(path))
    if output.no_file:
        return path
    with quantize_progress(out, f"writing {path.name}") as progress:
        manifest = quantize_model(
            source,
            found.plan,
            path,
            imatrix=imatrix,
            hessian=hessian,
            n_threads=compute.threads,
            force=force,
            progress=progress,
        )
    manifest.save(path.with_name(path.name + ".manifest.json"))
    return path


def _show(out: Output, outcome: SearchOutcome, paths: list[Path], seconds: float) -> None:
    from apex_native.allocation import save_surface
    from apex_native.atomic_write import write_atomically
    from apex_native.cli.search_tables import (
        document,
        notes,
        recipe_path,
        report_path,
        surface_path,
        tables,
    )

    found = document(outcome, paths, seconds)
    for path in paths:
        own = [row for row in found["budgets"] if row["file"] == str(path)]
        text = json.dumps({**found, "budgets": own}, indent=1) + "\n"
        write_atomically(
            report_path(path), text, what="report", advice="free the place or choose another"
        )

    if outcome.report.get("surface"):
        save_surface(outcome.report["surface"], surface_path(paths[0]))
        out.note(f"size, speed and KLD: {surface_path(paths[0])}")
    for table in tables(outcome, paths):
        out.table(table)
        out.text()
    for line in notes(outcome):
        out.note(line)
    for path in paths:
        out.note(f"recipe of {path.name}: {recipe_path(path)}")
    out.document(found)
