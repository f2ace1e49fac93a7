"""Results, as values or files, as a report of tables and plots."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Union, cast

from apex_native.argument_kinds import require_kind
from apex_native.errors import OutputError
from apex_native.reports import (
    FORMATS,
    ReportFormat,
    WrittenReport,
    default_title,
    report_files,
    write_report,
)
from apex_native.reports.html import Beside, write_html
from apex_native.results import Results, merge_results

if TYPE_CHECKING:
    from apex_native.evaluation import EvalResults

__all__ = ["report"]

AnyResults = Union[Results, "EvalResults", str, os.PathLike[str]]


def report(
    results: AnyResults | Sequence[AnyResults],
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    formats: Collection[ReportFormat] = FORMATS,
    page: str | os.PathLike[str] | None = None,
    beside: Beside | None = None,
    force: bool = False,
) -> WrittenReport:
    """Write ``report.md``, ``report.csv`` and plots of evaluations into a folder.

        apex.report(["eval.json", "speed.json"], "report")

    results: `Results`, what `evaluate` gave, or files; several of the same text are joined. title:
    default names the reference. page: one more file, the report as a page for a browser, with
    beside (manifests, coverage of experts) if given; needs plotly. force: replace a report that is
    there. Raises ResultsError where results cannot be read or joined, OutputError where the report
    exists or cannot be written, or plotly is missing.
    """
    given = results if isinstance(results, list | tuple) else [cast("AnyResults", results)]
    folder = Path(folder)
    wanted = [*report_files(folder, formats), *([] if page is None else [Path(page)])]
    existing = [path for path in wanted if path.exists()]
    if existing and not force:
        raise OutputError(f"{existing[0]} exists; choose another folder or pass `force=True`")
    merged = merge_results([_results_of(one) for one in given])
    written = write_report(merged, folder, title=title, formats=formats)
    if page is None:
        return written
    write_html(merged, Path(page), title=title or default_title(merged), beside=beside)
    return replace(written, files=(*written.files, Path(page)))


def _results_of(given: AnyResults) -> Results:
    """Results, those inside of what `evaluate` gave, or those of a file."""
    from apex_native.evaluation import EvalResults

    require_kind(
        *("results", given, (Results, EvalResults, str, os.PathLike)),
        "give what apex.evaluate gave, or the path of a results file",
    )
    if isinstance(given, EvalResults):
        return given.results
    return given if isinstance(given, Results) else Results.load(Path(given))
