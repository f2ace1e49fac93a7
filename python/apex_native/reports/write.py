"""Writing a report: Markdown, CSV and plots into one folder, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from apex_native.atomic_write import make_folder, write_atomically
from apex_native.reports.csv_table import csv_text
from apex_native.reports.markdown import markdown_text
from apex_native.reports.plots import PLOTS, Plot
from apex_native.results import Results

__all__ = [
    "FORMATS",
    "ReportFormat",
    "WrittenReport",
    "default_title",
    "report_files",
    "write_report",
]

ReportFormat = Literal["md", "csv", "png"]

FORMATS: tuple[ReportFormat, ...] = get_args(ReportFormat)


_ADVICE = "choose another folder"


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """files in the order they were written; left_out says for each missing plot why."""

    folder: Path
    files: tuple[Path, ...]
    left_out: Mapping[str, str]


def default_title(results: Results) -> str:
    """What the report is called unless it is given a title."""
    if results.reference is not None:
        return f"Quantizations of {results.reference.name.removesuffix('.gguf')}"
    return "Quantized models"


def report_files(folder: Path, formats: Collection[ReportFormat]) -> tuple[Path, ...]:
    """Every file that a report of these formats may write."""
    names = [f"{plot.name}.png" for plot in PLOTS] if "png" in formats else []
    names += [f"report.{kind}" for kind in ("md", "csv") if kind in formats]
    return tuple(folder / name for name in names)


def write_report(
    results: Results,
    folder: str | Path,
    *,
    title: str | None = None,
    formats: Collection[ReportFormat] = FORMATS,
) -> WrittenReport:
    """Write ``report.md``, ``report.csv`` and one PNG a plot; what is there is replaced.

    The folder is made where it is missing. Plots come first, so that report.md never names one
    that is not there. A plot that needs what was not measured is left out, with a sentence in
    report.md. Raises OutputError where the folder or a file cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    drawn: dict[str, tuple[str, str]] = {}
    left_out: dict[str, str] = {}
    files: list[Path] = []
    if "png" in formats:
        for plot in PLOTS:
            _draw(plot, results, folder, drawn, left_out)
        files += [folder / path for path, _ in drawn.values()]
    if "csv" in formats:
        files.append(folder / "report.csv")
        write_atomically(files[-1], csv_text(results), what="report", advice=_ADVICE)
    if "md" in formats:
        text = markdown_text(
            results, title=title or default_title(results), plots=drawn, left_out=left_out
        )
        files.append(folder / "report.md")
        write_atomically(files[-1], text, what="report", advice=_ADVICE)
    return WrittenReport(folder, tuple(files), left_out)


def _draw(
    plot: Plot,
    results: Results,
    folder: Path,
    drawn: dict[str, tuple[str, str]],
    left_out: dict[str, str],
) -> None:
    reason = plot.reason_missing(results)
    if reason is not None:
        left_out[plot.name] = reason
        return
    name = f"{plot.name}.png"
    write_atomically(folder / name, plot.png(results), what="plot", advice=_ADVICE)
    drawn[plot.name] = (name, plot.shows)
