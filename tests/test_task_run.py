"""Whole evaluations: several models, results, progress, and Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import apex_native
from apex_native.engine import Model, Placement
from apex_native.errors import DataError
from apex_native.evaluation import ModelUnderTest
from apex_native.evaluation.tasks import (
    OpenTask,
    ScoredItem,
    TaskKind,
    TaskOptions,
    TaskProgress,
    TaskSpec,
    evaluate_tasks,
    open_tasks,
)
from apex_native.evaluation.tasks import run as run_module
from apex_native.results import Build, Candidate, Results, TaskScore, unpack_items
from apex_native.types import GgmlType
from task_files import WRITERS
from tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskKind, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    written = {kind: folder / f"{kind}.bin" for kind in TaskKind}
    for kind, path in written.items():
        path.write_bytes(WRITERS[kind](30))
    return written


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama")


def tasks_of(
    files: dict[TaskKind, Path], n_tasks: int | None = None, *, compat: bool = False
) -> tuple[OpenTask, ...]:
    specs = tuple(TaskSpec(kind, str(path)) for kind, path in files.items())
    return open_tasks(TaskOptions(specs, n_tasks, compat))


def model(path: Path, **settings: Any) -> ModelUnderTest:
    return ModelUnderTest(path, placement=Placement(n_threads=2), **settings)


def test_two_models_in_three_tasks(files: dict[TaskKind, Path], tiny: Path) -> None:
    shown: list[TaskProgress] = []
    finished: list[str] = []
    scores = evaluate_tasks(
        {"demo": model(apex_native.demo_model()), "tiny": model(tiny)},
        tasks_of(files, 24),
        progress=shown.append,
        finished=lambda name, _: finished.append(name),
    )
    assert finished == ["demo", "tiny"]
    assert [score.task for score in scores["demo"]] == [
        "hellaswag",
        "winogrande",
        "multiple-choice",
    ]
    for own in scores.values():
        for score in own:
            assert score.n == 24
            assert score.selection == "24 of 30, mt19937 seed 1"
            assert sum(unpack_items(score.items or "", 24)) == round(score.score * 24)
    questions, others = scores["demo"][2], scores["tiny"][2]
    # The demo model knows the answers, the random one cannot.
    assert questions.score > 0.9
    assert questions.distinguishable_from_chance
    assert not others.distinguishable_from_chance
    assert questions.comparisons[0].other == "tiny"
    assert questions.comparisons[0].verdict.value == "better"
    assert [progress.done for progress in shown] == sorted(progress.done for progress in shown)
    assert shown[0].eta_s is None
    assert shown[-1].model == "tiny"


def test_scores_fit_the_results_file(files: dict[TaskKind, Path], tiny: Path) -> None:
    scores = evaluate_tasks({"tiny": model(tiny)}, tasks_of(files, compat=True), compat=True)
    assert {score.compat for score in scores["tiny"]} == {"upstream"}
    results = Results(
        build=Build("0", "0", "0"),
        created="2026-01-01T00:00:00Z",
        candidates=(Candidate(name="tiny", tasks=scores["tiny"]),),
    )
    assert Results.from_json(results.to_json()) == results


def test_a_models_own_cache_reaches_the_context(
    files: dict[TaskKind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[tuple[str, GgmlType, GgmlType]] = []

    def noted(loaded: Model, prepared: list[Any], options: Any, **_: Any) -> list[ScoredItem]:
        caches.append((Path(loaded.path).name, options.type_k, options.type_v))
        return [ScoredItem((0.0, 0.0), 0, correct=True) for _ in prepared]

    demo = apex_native.demo_model()
    monkeypatch.setattr(run_module, "score_items", noted)
    evaluate_tasks(
        {"reference": model(demo), "coded": model(demo, type_k="q8_0", type_v="q4_0")},
        tasks_of(files, 2)[:1],
    )
    assert caches == [
        (demo.name, GgmlType.F16, GgmlType.F16),
        (demo.name, GgmlType.Q8_0, GgmlType.Q4_0),
    ]


def test_a_cache_has_not_every_type(tiny: Path) -> None:
    with pytest.raises(ValueError, match="KV cache cannot have type Q4_K"):
        model(tiny, type_k=GgmlType.Q4_K)


def test_what_is_wrong_with_task_files_is_said_at_once(files: dict[TaskKind, Path]) -> None:
    broken = files[TaskKind.WINOGRANDE]
    with pytest.raises(DataError, match=r"number of tasks|table of"):
        open_tasks(TaskOptions((TaskSpec(TaskKind.MULTIPLE_CHOICE, str(broken)),)))
    twice = TaskOptions((TaskSpec(TaskKind.WINOGRANDE, str(broken)),) * 2)
    with pytest.raises(DataError, match="two tasks have the name 'winogrande'; name one of them"):
        open_tasks(twice)


def test_what_is_not_finite_is_wrong_and_said(
    files: dict[TaskKind, Path],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def not_a_number(model: Model, prepared: list[Any], *_: Any, **__: Any) -> list[ScoredItem]:
        nan = float("nan")
        return [ScoredItem((nan, nan), 1, correct=False, finite=False) for _ in prepared]

    monkeypatch.setattr(run_module, "score_items", not_a_number)
    with caplog.at_level(logging.WARNING):
        scores = evaluate_tasks({"tiny": model(tiny)}, tasks_of(files, 5)[:1])
    assert scores["tiny"][0].score == 0
    assert "logits of 5 of 5 hellaswag items are not finite" in caplog.text


@pytest.mark.usefixtures("frequent_looks")
def test_ctrl_c_is_heard_and_finished_models_are_kept(
    files: dict[TaskKind, Path], tiny: Path, request: pytest.FixtureRequest
) -> None:
    finished: dict[str, tuple[TaskScore, ...]] = {}
    sent: list[bool] = []

    def interrupt(progress: TaskProgress) -> None:
        if progress.model == "demo" and progress.task != "loading" and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    # A shell's background processes ignore it.
    handler_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler_before))
    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(
            {"tiny": model(tiny), "demo": model(apex_native.demo_model())},
            tasks_of(files),
            progress=interrupt,
            finished=finished.__setitem__,
        )
    assert list(finished) == ["tiny"]
    assert len(finished["tiny"]) == 3
