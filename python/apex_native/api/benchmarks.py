"""How fast models and kernels are, each as one call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.errors import OutputError
from apex_native.interrupt import cancellable
from apex_native.types import GgmlType

if TYPE_CHECKING:
    from apex_native.engine import Placement
    from apex_native.evaluation import AnyModel
    from apex_native.evaluation.speed import (
        KernelProgress,
        KernelSpeed,
        ModelSpeed,
        ModelSpeedProgress,
        SpeedSettings,
    )

__all__ = ["bench", "bench_kernels"]

AnyPath = str | os.PathLike[str]


def bench(
    models: Sequence[AnyModel] | AnyModel,
    tests: Sequence[SpeedSettings] | None = None,
    *,
    placement: Placement | None = None,
    jsonl: AnyPath | None = None,
    results: AnyPath | None = None,
    force: bool = False,
    progress: Callable[[ModelSpeedProgress], None] | None = None,
    finished: Callable[[ModelSpeed], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[ModelSpeed, ...]:
    """Tokens per second of models, by the procedure of llama-bench.

        for model in apex.bench(["quality.gguf", "mini.gguf"]):
            print(model.name, [(r.settings.test, r.median) for r in model.results])

    tests: combinations that `evaluation.speed.speed_grid` makes; default pp512 and tg128 with all
    threads. placement: GPUs of all models that have none of their own; the tests say how many
    threads. jsonl: a line is appended for each test as soon as it is done. results: a results file
    for `report`. finished is called after every test with the model's results so far. force:
    overwrite the results file.

    Raises ValueError for tests that cannot be, OutputError for files that are in the way or cannot
    be written, and what `load_model` raises; what was finished is in jsonl.
    """
    from apex_native.evaluation import as_models
    from apex_native.evaluation.model_under_test import names_of
    from apex_native.evaluation.speed import (
        JsonLines,
        measure_models,
        speed_grid,
        speed_record,
        speed_results,
    )
    from apex_native.machine import usable_threads

    _require_free(results, force=force)
    if tests is None:
        tests = speed_grid(n_threads=(usable_threads(),))
    records = JsonLines(_path(jsonl))

    def keep(speed: ModelSpeed) -> None:
        records.append(speed_record(speed, speed.results[-1]))
        if finished is not None:
            finished(speed)

    named = names_of(as_models(models, placement=placement))
    try:
        with records, cancellable(cancel):
            measured = measure_models(named, tests, progress=progress, finished=keep)
    except BaseException as stop:
        if records.n_lines and jsonl is not None:
            stop.add_note(f"the {records.n_lines} finished tests are in {jsonl}")
        raise
    if results is not None:
        speed_results(measured).save(Path(results))
    return measured


def bench_kernels(
    types: Sequence[GgmlType] | None = None,
    *,
    device: str = "cpu",
    n_threads: Sequence[int] | None = None,
    repetitions: int = 5,
    sample_seconds: float = 0.1,
    working_set: int | None = None,
    seed: int = 0,
    jsonl: AnyPath | None = None,
    png: AnyPath | None = None,
    force: bool = False,
    progress: Callable[[KernelProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[KernelSpeed, ...]:
    """How fast the kernels of each type are, beside what the memory of this machine gives.

    types: default all that weights can be written in. device: "cpu" or "cuda". n_threads: default 1
    and all. sample_seconds: of each of the repetitions. working_set: bytes gone through before the
    first are met again, default `evaluation.speed.working_set_bytes`. jsonl: a line is appended for
    each measurement as soon as it is done. png: a plot. force: overwrite the plot.

    Raises ValueError for settings out of range and devices that are not here, ApexError where a
    kernel computes something wrong, OutputError for files.
    """
    from apex_native.evaluation.speed import JsonLines, kernel_record, measure_kernels
    from apex_native.machine import usable_threads

    _require_free(png, force=force)
    rows: list[KernelSpeed] = []
    with JsonLines(_path(jsonl)) as records, cancellable(cancel):
        for row in measure_kernels(
            types,
            device=device,
            n_threads=sorted(n_threads or {1, usable_threads()}),
            repetitions=repetitions,
            sample_seconds=sample_seconds,
            working_set=working_set,
            seed=seed,
            progress=progress,
        ):
            rows.append(row)
            records.append(kernel_record(row))
    if png is not None:
        _draw(rows, png)
    return tuple(rows)


def _draw(rows: Sequence[KernelSpeed], path: AnyPath) -> None:
    from apex_native.atomic_write import write_atomically
    from apex_native.machine import cpu_name, gpu_names
    from apex_native.reports.plots.kernels import kernel_plot

    name = cpu_name() if rows[0].device == "cpu" else (*gpu_names(), "GPU")[0]
    nbytes = max(row.n_weights * row.bytes_per_weight for row in rows)
    write_atomically(path, kernel_plot(rows, cpu=name, working_set=nbytes), what="plot")


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _require_free(path: AnyPath | None, *, force: bool) -> None:
    if path is not None and Path(path).exists() and not force:
        raise OutputError(f"{os.fspath(path)} exists; choose another place or pass `force=True`")
