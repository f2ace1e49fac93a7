"""``apex-native demo``: everything once, on the model that ships with the package."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.options import (
    ForceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    examples,
)
from apex_native.cli.output import Output
from apex_native.cli.result_tables import show_comparisons
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.demo_run import Demo, DemoRow

__all__ = ["register"]

_NOTES = (
    "errors: relative RMSE of the weights, by role; bpw: bits per weight over all tensors",
    "PPL and KLD (nats, from the first file): on text made by templates, with standard errors",
    "* with an importance matrix, collected just now on 12,288 tokens of the recipe diverse",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "demo",
        short_help="Quantize the bundled model in seven recipes and compare.",
        epilog=examples("apex-native demo --search", "apex-native demo --output-dir demo-files"),
    )(demo)


SearchOption = Annotated[
    bool, typer.Option("--search", help="Find types for Q4_K_M's size, too: a minute more.")
]


def demo(
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write the files; default: a temporary folder."),
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Keep the files; default: only with --output-dir."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the evaluation as a report with plots into DIR."),
    ] = None,
    search: SearchOption = False,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantize the bundled MoE model in seven recipes and measure what that did to it.

    Takes under a minute on two cores; nothing is downloaded.
    """
    from apex_native.demo import demo_model
    from apex_native.demo_run import run_demo

    out = Output(json_mode=json_mode, quiet=quiet)
    out.note(f"model: {demo_model()}")
    with ExitStack() as stack:
        folder, kept = _folder(stack, output_dir, keep)
        found = run_demo(
            folder,
            n_threads=threads,
            force=force,
            search=search,
            starting=lambda name: out.note(f"making {name}"),
        )
    if report is not None:
        _write_report(out, found, report)
    out.document(
        {
            "model": str(demo_model()),
            "output_dir": str(folder) if kept else None,
            "rows": [asdict(row) for row in found.rows],
            "results": found.results.to_dict(),
        }
    )
    out.table(_table(found.rows))
    out.text()
    show_comparisons(out, found.results, ("kld_mean",))
    out.note(
        f"the files are in {folder}" if kept else "the files were temporary; --keep keeps them"
    )


def _write_report(out: Output, found: Demo, folder: Path) -> None:
    from apex_native.reports import write_report

    written = write_report(found.results, folder, title="apex-native demo")
    out.note(f"report: {written.folder / 'report.md'}")


def _folder(stack: ExitStack, output_dir: Path | None, keep: bool | None) -> tuple[Path, bool]:
    """Where to write, and whether it stays."""
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
    if keep is None:
        keep = output_dir is not None
    if keep:
        return output_dir or Path(tempfile.mkdtemp(prefix="apex-demo-")), True
    temporary = tempfile.TemporaryDirectory(prefix="apex-demo-", dir=output_dir)
    return Path(stack.enter_context(temporary)), False


def _table(rows: tuple[DemoRow, ...]) -> Table:
    groups = list(rows[-1].errors)
    columns = (
        Column("file", wraps=True),
        Column("bytes", right=True),
        Column("bpw", right=True, drop=2),
        *(Column(group, right=True, drop=3 + i) for i, group in enumerate(groups)),
        Column("PPL", right=True, drop=1),
        Column("KLD mean", right=True, wraps=True),
    )
    return Table(columns, [_cells(row, groups) for row in rows], notes=_NOTES)


def _cells(row: DemoRow, groups: list[str]) -> tuple[str, ...]:
    errors = (row.errors.get(group) for group in groups)
    return (
        row.file + (" *" if row.uses_imatrix else ""),
        f"{row.nbytes:,}",
        f"{row.bpw:.3f}",
        *("–" if error is None else f"{error:.2%}" for error in errors),
        _with_error(row.ppl, row.ppl_se, 3),
        _with_error(row.kld_mean, row.kld_se, 4),
    )


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f} ± {error or 0:.{digits}f}"
