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
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.demo_run import DemoRow

__all__ = ["register"]

_NOTES = (
    "errors: relative RMSE of the weights, by role; bpw: bits per weight over all tensors",
    "nats per token: mean over 511 tokens of one generated text, a sign of life and no benchmark",
    "* with an importance matrix, collected just now on 12,288 tokens of the recipe diverse",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "demo",
        short_help="Quantize the bundled model in seven recipes.",
        epilog=examples("apex-native demo", "apex-native demo --output-dir demo-files"),
    )(demo)


def demo(
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write the files; default: a temporary folder."),
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Keep the files; default: only with --output-dir."),
    ] = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantize the bundled MoE model in seven recipes and compare them.

    Takes seconds; nothing is downloaded.
    """
    from apex_native.demo import demo_model
    from apex_native.demo_run import run_demo

    out = Output(json_mode=json_mode, quiet=quiet)
    out.note(f"model: {demo_model()}")
    with ExitStack() as stack:
        folder, kept = _folder(stack, output_dir, keep)
        rows = run_demo(
            folder,
            n_threads=threads,
            force=force,
            starting=lambda name: out.note(f"making {name}"),
        )
    out.document(
        {
            "model": str(demo_model()),
            "output_dir": str(folder) if kept else None,
            "rows": [asdict(row) for row in rows],
        }
    )
    out.table(_table(rows))
    out.note(
        f"the files are in {folder}" if kept else "the files were temporary; --keep keeps them"
    )


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
        Column("file"),
        Column("bytes", right=True),
        Column("bpw", right=True),
        *(Column(group, right=True) for group in groups),
        Column("nats per token", right=True),
    )
    return Table(columns, [_cells(row, groups) for row in rows], notes=_NOTES)


def _cells(row: DemoRow, groups: list[str]) -> tuple[str, ...]:
    errors = (row.errors.get(group) for group in groups)
    return (
        row.file + (" *" if row.uses_imatrix else ""),
        f"{row.nbytes:,}",
        f"{row.bpw:.3f}",
        *("–" if error is None else f"{error:.2%}" for error in errors),
        f"{row.mean_nll:.3f}",
    )
