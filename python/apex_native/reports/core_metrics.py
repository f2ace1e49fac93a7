"""The Core Metrics table: one line a model, in the published table's columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apex_native.reports import numbers
from apex_native.reports.markdown_table import Column
from apex_native.reports.models import (
    TASK_TITLES,
    Model,
    all_models,
    common_speed_settings,
    kv_cache,
    speed_of,
    task_of,
)
from apex_native.results import Candidate, Results

__all__ = ["CoreMetrics", "core_metrics"]

_ALWAYS = ("Quantization", "Size (GiB)", "bpw")


@dataclass(frozen=True, slots=True)
class CoreMetrics:
    """Columns that anybody was measured in, rows of text, and the columns left out."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    not_measured: tuple[str, ...]


def core_metrics(results: Results) -> CoreMetrics:
    """The table; the reference is its first row."""
    models = all_models(results)
    kept: dict[str, list[str]] = {}
    empty: list[str] = []
    for title, cell in _cells(results).items():
        column = [cell(model) for model in models]
        if title in _ALWAYS or any(text != numbers.NOT_MEASURED for text in column):
            kept[title] = column
        else:
            empty.append(title)
    return CoreMetrics(
        columns=tuple(Column(title, right=title != _ALWAYS[0]) for title in kept),
        rows=tuple(zip(*kept.values(), strict=True)),
        not_measured=tuple(title for title in empty if title != "KV cache"),
    )


def _cells(results: Results) -> dict[str, Callable[[Model], str]]:
    decimals = numbers.size_decimals(model.bytes for model in all_models(results))

    def of_candidate(text: Callable[[Candidate], str]) -> Callable[[Model], str]:
        return lambda m: text(m) if isinstance(m, Candidate) else numbers.NOT_MEASURED

    cells: dict[str, Callable[[Model], str]] = {
        "Quantization": lambda m: m.name,
        "KV cache": lambda m: kv_cache(m) or numbers.NOT_MEASURED,
        "Size (GiB)": lambda m: numbers.gib(m.bytes, decimals),
        "bpw": lambda m: numbers.NOT_MEASURED if m.bpw is None else f"{m.bpw:.3f}",
        "PPL": lambda m: numbers.perplexity(m.ppl, m.ppl_se),
        "KLD mean": of_candidate(lambda c: numbers.kld(c.kld_mean, c.kld_se)),
        "KLD max": of_candidate(lambda c: numbers.kld(c.kld_max)),
        "KLD 99.9 %": of_candidate(lambda c: numbers.kld(c.kld_p999)),
        "Same top (%)": of_candidate(lambda c: numbers.percent(c.same_top, c.same_top_se)),
    }
    for task, title in TASK_TITLES.items():
        cells[f"{title} (%)"] = _task_cell(task)
    for test in ("pp512", "tg128"):
        cells[f"{test} (t/s)"] = _speed_cell(results, test)
    return cells


def _task_cell(task: str) -> Callable[[Model], str]:
    return lambda model: numbers.score(task_of(model, task))


def _speed_cell(results: Results, test: str) -> Callable[[Model], str]:
    settings = common_speed_settings(results)

    def cell(model: Model) -> str:
        run = speed_of(model, test, settings)
        return numbers.speed(None if run is None else run.median)

    return cell
