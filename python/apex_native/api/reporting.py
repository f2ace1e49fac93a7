"""Results, as values or files, as a report of tables and plots."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from apex_native.errors import OutputError
from apex_native.reports import FORMATS, ReportFormat, WrittenReport, report_files, write_report
from apex_native.results import Results, merge_results

__all__ = ["report"]

AnyResults = Results | str | os.PathLike[str]


def report(
    results: AnyResults | Sequence[AnyResults],
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    formats: Collection[ReportFormat] = FORMATS,
    force: bool = False,
) -> WrittenReport:
    """Write ``report.md``, ``report.csv`` and plots of evaluations into a folder.

        apex.report(["eval.json", "speed.json"], "report")

    results: values or files; several of the same text are joined. title: default names the
    reference. force: replace a report that is there. Raises ResultsError where results cannot be
    read or joined, OutputError where the report exists or cannot be written.
    """
    given = [results] if isinstance(results, Results | str | os.PathLike) else results
    folder = Path(folder)
    existing = [path for path in report_files(folder, formats) if path.exists()]
    if existing and not force:
        raise OutputError(f"{existing[0]} exists; choose another folder or pass --force")
    merged = merge_results([r if isinstance(r, Results) else Results.load(Path(r)) for r in given])
    return write_report(merged, folder, title=title, formats=formats)
