"""``apex-native report``: from evaluation files to tables and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.options import ForceOption, JsonOption, QuietOption, examples
from apex_native.cli.output import Output
from apex_native.cli.result_tables import show_core_metrics
from apex_native.errors import DataError

if TYPE_CHECKING:
    from apex_native.reports import ReportFormat
    from apex_native.reports.html import Beside

__all__ = ["register"]

ResultsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULTS...", help="Files of `eval --json`; several of the same text are joined."
    ),
]
FolderOption = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="DIR", help="Folder for the report; made if missing."),
]
TitleOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Heading; default: the reference's name.")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format", metavar="LIST", help="What to write: md, csv and png, separated by commas."
    ),
]


HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="out.html", help="One page for a browser that needs nothing else."
    ),
]
ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--manifest", metavar="M.manifest.json", help="With --html: a map of a file's types."
    ),
]
CoverageOption = Annotated[
    Path | None,
    typer.Option(
        "--coverage",
        metavar="coverage.json",
        help="With --html: experts that calibration saw, as `imatrix --coverage` wrote them.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "report",
        short_help="Turn evaluations into tables and plots.",
        epilog=examples(
            "apex-native report eval.json -o report",
            "apex-native report eval.json more.json speed.json -o report --title 'Model X'",
            "apex-native report eval.json -o report --format md,png --force",
            "apex-native report eval.json -o report --html report.html",
        ),
    )(report)


def report(
    results: ResultsArgument,
    output: FolderOption,
    title: TitleOption = None,
    format: FormatOption = "md,csv,png",
    html: HtmlOption = None,
    models: ModelsOption = None,
    coverage: CoverageOption = None,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write report.md, report.csv and plots of one evaluation, or of several of the same text.

    A score that guessing could have given is marked (chance) wherever it stands.
    """
    from apex_native import api
    from apex_native.results import Results, merge_results

    formats = _formats(format)
    out = Output(json_mode=json_mode, quiet=quiet)
    merged = merge_results([Results.load(path) for path in results])
    written = api.report(
        merged,
        output,
        title=title,
        formats=formats,
        page=html,
        beside=_beside(html, models, coverage),
        force=force,
    )
    out.document(
        {
            "folder": str(written.folder),
            "files": [str(path) for path in written.files],
            "left_out": dict(written.left_out),
            "candidates": [candidate.name for candidate in merged.candidates],
        }
    )
    show_core_metrics(out, merged)
    for path in written.files:
        out.text(f"wrote    {path}")
    for reason in written.left_out.values():
        out.note(f"left out: {reason}")


def _beside(html: Path | None, models: list[Path] | None, coverage: Path | None) -> Beside:
    from apex_native.reports.html import Beside

    if html is None and (models or coverage):
        raise typer.BadParameter("is for a page; add --html", param_hint="--manifest, --coverage")
    manifests = [
        _document(path, "files", "a manifest, as `quantize` writes it") for path in models or ()
    ]
    return Beside(
        {manifest["files"][0]: manifest for manifest in manifests},
        None
        if coverage is None
        else _document(coverage, "layers", "a coverage, as `imatrix --coverage` writes it"),
    )


def _document(path: Path, key: str, expected: str) -> dict[str, Any]:
    """The JSON object in a file, which has a list under key; DataError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise DataError(f"{path}: expected {expected}, found no JSON ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get(key), list) or not found[key]:
        raise DataError(f"{path}: expected {expected}, found JSON without a list of '{key}'")
    return found


def _formats(text: str) -> tuple[ReportFormat, ...]:
    from apex_native.reports import FORMATS

    wanted = [part.strip().lower() for part in text.split(",")]
    unknown = [part for part in wanted if part not in FORMATS]
    if unknown:
        raise typer.BadParameter(
            f"'{unknown[0]}' is none of {', '.join(FORMATS)}", param_hint="--format"
        )
    return tuple(kind for kind in FORMATS if kind in wanted)
