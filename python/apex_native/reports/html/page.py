"""The page around the figures: headings, a table, light and dark, and plotly's script inside."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from apex_native.atomic_write import write_atomically
from apex_native.errors import OutputError
from apex_native.reports import numbers
from apex_native.reports.html.figures import Figure, result_figures
from apex_native.reports.html.maps import coverage_figure, type_figures
from apex_native.results import Results

__all__ = ["Beside", "html_text", "write_html"]

_GIB = 1 << 30


@dataclass(frozen=True)
class Beside:
    """What a page may show beside results: manifests by file name, a coverage of experts."""

    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    coverage: Mapping[str, Any] | None = None


def write_html(
    results: Results, path: str | Path, *, title: str, beside: Beside | None = None
) -> None:
    """Write the page, whole or not at all. Raises OutputError where it cannot be written, and
    where plotly is not installed.
    """
    text = html_text(results, title=title, beside=beside)
    write_atomically(path, text, what="report", advice="choose another place")


def html_text(results: Results, *, title: str, beside: Beside | None = None) -> str:
    """The page as one string: under 5 MB, nothing in it is fetched from anywhere."""
    more = beside or Beside()
    by_size = sorted(results.candidates, key=lambda c: -(c.bytes or 0))
    results = replace(results, candidates=tuple(by_size))
    figures = result_figures(results, more.manifests)
    if more.coverage is not None:
        found = coverage_figure(more.coverage)
        figures += [found] if found is not None else []
    figures += type_figures(more.manifests)
    data = {figure.name: {"data": figure.traces, "layout": figure.layout} for figure in figures}
    fields = {
        "TITLE": html.escape(title),
        "NAVIGATION": "".join(
            f'<a href="#{figure.name}">{html.escape(figure.title)}</a>' for figure in figures
        ),
        "CONDITIONS": html.escape(_conditions(results)),
        "TABLE": _table(results),
        "SECTIONS": "".join(map(_section, figures)),
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "SCRIPT": base64.b64encode(gzip.compress(_plotly(), 9, mtime=0)).decode(),
    }
    text = _template()
    for name, value in fields.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _template() -> str:
    return (resources.files("apex_native.reports.html") / "page.html").read_text("utf-8")


def _plotly() -> bytes:
    try:
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise OutputError(
            "a page needs plotly's script; `pip install 'apex-native[html]'`"
        ) from None


def _section(figure: Figure) -> str:
    name, title = figure.name, html.escape(figure.title)
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
        f"<p>{html.escape(figure.says)}</p>"
        f'<div class="plot" id="{name}-plot" role="img" tabindex="0" '
        f'aria-label="{title}; arrow keys go from point to point" aria-describedby="{name}-point" '
        f'style="height:{figure.height}px"></div>'
        f'<p class="says" id="{name}-point" aria-live="polite"></p></section>'
    )


def _conditions(results: Results) -> str:
    parts = []
    if results.reference is not None:
        parts.append(f"against {results.reference.name}")
    if results.data is not None:
        parts.append(f"{results.data.n_chunks} chunks of {results.data.name}")
    if results.settings is not None:
        parts.append(results.settings.device)
    return ", ".join(parts)


def _table(results: Results) -> str:
    """The numbers behind the plots, for who reads with a keyboard or on paper."""
    largest = max((c.bytes or 0 for c in results.candidates), default=0)
    unit, per = ("GiB", _GIB) if largest >= _GIB else ("MiB", 1 << 20)
    head = ("file", unit, "bpw", "KLD mean", "99.9 %", "same top (%)", "PPL")
    rows: list[Sequence[str]] = [
        (
            c.name,
            "" if c.bytes is None else f"{c.bytes / per:.3f}",
            "" if c.bpw is None else f"{c.bpw:.3f}",
            numbers.kld(c.kld_mean, c.kld_se),
            numbers.kld(c.kld_p999),
            numbers.percent(c.same_top),
            numbers.perplexity(c.ppl, c.ppl_se),
        )
        for c in results.candidates
    ]
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><td class="number">{i}</td><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for i, row in enumerate(rows, start=1)
    )
    return f"<table><thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table>"
