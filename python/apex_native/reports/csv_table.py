"""The report as CSV: one line a model, every column always, full precision."""

from __future__ import annotations

import csv
import dataclasses
import io

from apex_native.printable import printable
from apex_native.reports import numbers
from apex_native.reports.models import (
    TASK_TITLES,
    Model,
    all_models,
    common_speed_settings,
    speed_of,
    task_names,
    task_of,
    tests_of,
)
from apex_native.results import Candidate, Reference, Results

__all__ = ["csv_text"]

_NESTED = {"chunks", "kld_by_confidence", "router_agreement", "tasks", "speed", "path"}

_FIRST = ("name", "bytes", "bpw", "sha256", "fingerprint", "type_k", "type_v", "ppl", "ppl_se")
_LAST = ("n_positions", "n_not_finite", "first_not_finite")

_METRICS = (
    *_FIRST,
    *(
        field.name
        for field in dataclasses.fields(Candidate)
        if field.name not in (*_NESTED, *_FIRST, *_LAST)
    ),
    *_LAST,
)


_TASK_PARTS = ("percent", "low", "high", "chance", "mark")


def csv_text(results: Results) -> str:
    """Comma-separated, with a heading line; what was not measured is empty.

    Keys and units are those of the JSON, beside size_gib (GiB). For each task: its score in
    percent, the interval's ends, what guessing gives, and a mark, ``chance`` where guessing could
    have given the score, ``below chance`` or nothing. Speeds are medians in tokens per second with
    the settings most tests share. A column holds numbers only or text only.
    """
    tasks = tuple(dict.fromkeys((*TASK_TITLES, *task_names(results))))
    settings = common_speed_settings(results)
    tests = tuple(dict.fromkeys(("pp512", "tg128", *tests_of(all_models(results), settings))))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_heading(tasks, tests))
    for model in all_models(results):
        runs = [speed_of(model, test, settings) for test in tests]
        writer.writerow(
            [
                "reference" if isinstance(model, Reference) else "candidate",
                *(_cell(getattr(model, key, None)) for key in _METRICS),
                "" if model.bytes is None else f"{model.bytes / (1 << 30):.6f}",
                *(cell for task in tasks for cell in _task_cells(model, task)),
                *("" if run is None else repr(run.median) for run in runs),
                *_conditions(results),
            ]
        )
    return out.getvalue()


def _heading(tasks: tuple[str, ...], tests: tuple[str, ...]) -> list[str]:
    scores = [
        f"{task}_{part}" for task in tasks for part in ("percent", "low", "high", "chance", "mark")
    ]
    return [
        "role",
        *_METRICS,
        "size_gib",
        *scores,
        *(f"{test}_tokens_per_second" for test in tests),
        *("data", "data_sha256", "ctx", "n_chunks"),
        *("noise_floor_kld_mean", "noise_floor_kld_p999", "noise_floor_kld_max"),
    ]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return printable(value)
    return "" if value is None else repr(value)


def _task_cells(model: Model, task: str) -> tuple[str, ...]:
    result = task_of(model, task)
    if result is None:
        return ("",) * len(_TASK_PARTS)
    values = (result.score, result.low, result.high, result.chance)
    return (*(f"{100 * value:.4f}" for value in values), numbers.chance_mark(result))


def _conditions(results: Results) -> tuple[str, ...]:
    """Repeated on every line, so that a line that was copied still says what it is."""
    data, floor = results.data, results.noise_floor
    text = ("",) * 4
    if data is not None:
        text = (printable(data.name), data.sha256, str(data.ctx), str(data.n_chunks))
    noise = (floor.kld_mean, floor.kld_p999, floor.kld_max) if floor is not None else (None,) * 3
    return (*text, *(_cell(value) for value in noise))
