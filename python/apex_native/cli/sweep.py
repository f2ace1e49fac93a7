"""``apex-native sweep``: many candidates against one reference, on one machine or many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.options import ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output
from apex_native.cli.result_tables import show_results
from apex_native.cli.sweep_progress import sweep_progress
from apex_native.printable import counted

if TYPE_CHECKING:
    from apex_native.sweeps import SweepOutcome

__all__ = ["register"]

RAY = "Workers"

DefinitionArgument = Annotated[
    Path, typer.Argument(metavar="SWEEP.toml", help="Reference, texts, tasks and candidates.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with, or add to, the sweep in the folder.")
]


@dataclass(frozen=True)
class SweepOutput:
    """Where results go."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for store, results and report. Default: the definition's name without "
            ".toml.",
        ),
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another store, that several sweeps share in turn."),
    ] = None
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Write results only, no report.")
    ] = False


@dataclass(frozen=True)
class WorkerChoices:
    """Who computes."""

    ray: Annotated[
        bool,
        typer.Option(
            "--ray", rich_help_panel=RAY, help="Workers on this machine, started through Ray."
        ),
    ] = False
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            rich_help_panel=RAY,
            help="Workers on a running Ray cluster; `auto` finds the one of this machine.",
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=RAY,
            show_default="one a GPU, or one a machine",
            help="How many.",
        ),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "sweep",
        short_help="Measure many candidates, on one machine or many.",
        epilog=examples(
            "apex-native sweep sweep.toml",
            "apex-native sweep sweep.toml --ray --workers 4 -o kept",
            "apex-native sweep sweep.toml --address auto -o kept --resume",
        ),
    )(spread(sweep))


def sweep(
    definition: DefinitionArgument,
    output: SweepOutput,
    workers: WorkerChoices,
    compute: ComputeChoices,
    resume: ResumeOption = False,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score every combination of recipes, matrices, priors and caches that a file lists.

    Candidates are quantized in memory and compared with the reference, block by block of the text.
    Everything that was measured stays in the store: a sweep that was interrupted goes on, one that
    grew computes what is new. Results are the same in one process and on a cluster.
    """
    from apex_native.sweeps import sweep as run

    if workers.workers is not None and not (workers.ray or workers.address):
        raise typer.BadParameter("needs --ray or --address", param_hint="--workers")
    if definition.is_dir():
        raise typer.BadParameter(
            f"{definition} is a folder, expected a sweep's .toml file", param_hint="SWEEP.toml"
        )
    out = Output(json_mode=json_mode, quiet=quiet)
    folder = output.output or definition.with_suffix("")
    with sweep_progress(out) as progress:
        outcome = run(
            definition,
            folder,
            store=output.store,
            ray=workers.ray,
            address=workers.address,
            workers=workers.workers,
            placement=compute.placement,
            report=not output.no_report,
            resume=resume,
            force=force,
            progress=progress,
        )
    out.document(_document(outcome))
    _show(out, outcome)
    if outcome.failures:
        _complain(outcome)


def _show(out: Output, outcome: SweepOutcome) -> None:
    for name, results in outcome.results.items():
        if len(outcome.results) > 1:
            out.text(name)
        show_results(out, results)
    for path in outcome.files:
        out.text(f"wrote    {path}")
    for name, reason in outcome.skipped.items():
        out.note(f"left out: {name}: {reason}")
    for failure in outcome.failures:
        out.warning(f"{failure.label}: {failure.reason}")
    out.note(
        f"{counted(outcome.n_done, 'job')} in {outcome.seconds:.0f} s, "
        f"{outcome.n_known} known before, {len(outcome.failures)} failed"
    )


def _complain(outcome: SweepOutcome) -> None:
    from apex_native.errors import ModelError

    jobs, first = counted(len(outcome.failures), "job"), outcome.failures[0]
    raise ModelError(
        f"{jobs} of the sweep gave no result, the first is {first.label} "
        f"({first.reason}); what depends on them is left out, `resume=True` tries them again"
    )


def _document(outcome: SweepOutcome) -> dict[str, Any]:
    return {
        "folder": str(outcome.folder),
        "files": [str(path) for path in outcome.files],
        "candidates": {
            name: [
                {"name": row.name, "bytes": row.bytes, "kld_mean": row.kld_mean}
                for row in results.candidates
            ]
            for name, results in outcome.results.items()
        },
        "skipped": dict(outcome.skipped),
        "failures": [
            {"job": failure.label, "candidate": failure.candidate, "reason": failure.reason}
            for failure in outcome.failures
        ],
        "jobs": {"done": outcome.n_done, "known": outcome.n_known},
        "seconds": outcome.seconds,
    }
