"""Models under test: files and models that exist in memory only, each with settings of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_native as apex
import tolerances
from apex_native.demo_text import demo_text
from apex_native.engine import Model, Placement, load_model
from apex_native.errors import Cancelled, DeviceError, PlanError
from apex_native.evaluation import (
    EvaluateProgress,
    ModelSource,
    ModelUnderTest,
    PlannedModel,
    Text,
    TextScorer,
)
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import names_of
from apex_native.evaluation.speed import SpeedSettings
from apex_native.evaluation.tasks import TaskKind, TaskSpec
from apex_native.evaluation.tasks import run as run_module
from apex_native.fingerprint import model_fingerprint
from apex_native.quantization import made_where_there_is_room
from apex_native.results import Results
from apex_native.types import GgmlType
from task_files import WRITERS

TEXT = Text("text", demo_text(6_000, seed=11))
QUICK: dict[str, Any] = {"ctx": 128, "chunks": 2, "n_threads": 2, "noise_chunks": 0}


@pytest.fixture(scope="module")
def plan() -> apex.Plan:
    with apex.open_gguf(apex.demo_model()) as source:
        return apex.make_plan(source, tier="compact")


@pytest.fixture(scope="module")
def written(plan: apex.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "compact.gguf"
    apex.quantize(apex.demo_model(), plan, path)
    return path


@pytest.fixture
def hellaswag(tmp_path: Path) -> TaskSpec:
    path = tmp_path / "hellaswag.txt"
    path.write_bytes(WRITERS[TaskKind.HELLASWAG](12))
    return TaskSpec(TaskKind.HELLASWAG, str(path))


# --- in memory ----------------------------------------------------------------------------------


def test_a_plan_in_memory_is_scored_like_its_file(plan: apex.Plan, written: Path) -> None:
    in_memory = PlannedModel(apex.demo_model(), plan, name="planned")
    before = shared_memory()
    found = apex.evaluate(apex.demo_model(), [in_memory, written], TEXT, **QUICK).results
    assert shared_memory() == before
    planned, file = found.candidates
    assert (planned.name, planned.path) == ("planned", None)
    assert (planned.bytes, planned.bpw) == (file.bytes, file.bpw)
    assert planned.kld_mean == file.kld_mean
    assert planned.kld_mean is not None
    assert planned.kld_mean > 0
    assert planned.chunks == file.chunks
    with apex.open_gguf(written) as opened:
        assert planned.fingerprint == model_fingerprint(opened)


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("apex-*")} if folder.is_dir() else set()


def test_two_passes_take_plans_one_after_the_other(plan: apex.Plan, written: Path) -> None:
    in_memory = PlannedModel(apex.demo_model(), plan, name="planned")
    found = apex.evaluate(
        apex.demo_model(), [in_memory, written], TEXT, two_pass=True, **QUICK
    ).results
    assert found.candidates[0].kld_mean == found.candidates[1].kld_mean


def test_a_plan_for_another_file_is_refused(plan: apex.Plan, written: Path) -> None:
    in_memory = PlannedModel(written, plan)
    with pytest.raises(PlanError, match="made for another file"):
        apex.evaluate(None, [in_memory], TEXT, **QUICK)


def test_a_closed_plan_is_made_again(plan: apex.Plan) -> None:
    in_memory = PlannedModel(apex.demo_model(), plan)
    first = in_memory.fingerprint
    with in_memory.open(Placement(n_threads=1)) as model:
        n_parameters = model.n_parameters
    in_memory.close()
    in_memory.close()
    with in_memory.open(Placement(n_threads=1)) as model:
        assert model.n_parameters == n_parameters
    assert in_memory.fingerprint == first


class OpenedNotes:
    """A source that says when it is loaded: any object with these members is a candidate."""

    def __init__(self, notes: list[str]) -> None:
        self.name, self.path, self.nbytes, self.bpw = "noted", None, 1, 16.0
        self.fingerprint = "0" * 64
        self.notes = notes

    @contextmanager
    def open(self, placement: Placement) -> Iterator[Model]:
        self.notes.append("open")
        with load_model(apex.demo_model(), n_threads=placement.n_threads) as model:
            yield model
        self.notes.append("closed")


def test_any_source_of_a_model_is_a_candidate(hellaswag: TaskSpec) -> None:
    notes: list[str] = []
    source: ModelSource = OpenedNotes(notes)
    found = apex.evaluate(
        apex.demo_model(), [source, ModelUnderTest(source, type_k="q8_0")], TEXT,
        tasks=[hellaswag], n_tasks=4, **QUICK,
    )  # fmt: skip
    plain, coded = found.results.candidates
    assert (plain.name, coded.name) == ("noted", "noted (cache q8_0/f16)")
    assert plain.kld_mean == 0.0
    assert coded.kld_mean is not None
    assert coded.kld_mean > 0
    # One model with two caches: loaded once for the text, and again for the second one's tasks.
    assert notes == ["open", "closed", "open", "closed"]


def test_candidates_are_scored_one_after_the_other(plan: apex.Plan, written: Path) -> None:
    options = {"ctx": 128, "chunks": 2}
    whole = apex.evaluate(apex.demo_model(), [written], TEXT, two_pass=True, **QUICK)
    placement = Placement(n_threads=2)
    with TextScorer(
        apex.demo_model(), TEXT, router=True, placement=placement, **options
    ) as scorer:  # fmt: skip
        itself = scorer.score(apex.demo_model())
        first = scorer.score(PlannedModel(apex.demo_model(), plan))
        second = scorer.score(ModelUnderTest(written, placement=placement))
    assert scorer.data == whole.results.data
    assert itself.kld.shape == (2 * scorer.n_scored,)
    assert itself.kld.max() < tolerances.TWO_PASS_KLD_ATOL
    assert np.array_equal(first.kld, second.kld)
    assert np.array_equal(first.kld, whole.tokens["compact"].kld)
    assert first.router == whole.tokens["compact"].router
    assert scorer.reference is not None
    assert np.array_equal(scorer.reference.nll, whole.tokens[apex.demo_model().stem].nll)
    with pytest.raises(ValueError, match="closed"):
        scorer.score(written)


# --- settings of its own ------------------------------------------------------------------------


def test_the_candidates_cache_never_reaches_the_reference(
    hellaswag: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []
    score_items = run_module.score_items

    def noted(model: Model, prepared: Any, options: Any, **settings: Any) -> Any:
        caches.append(options.type_k)
        return score_items(model, prepared, options, **settings)

    monkeypatch.setattr(run_module, "score_items", noted)
    demo = apex.demo_model()
    found = apex.evaluate(demo, [demo], tasks=[hellaswag], n_tasks=4, type_k="q4_0", n_threads=2)
    assert caches == [GgmlType.F16, GgmlType.Q4_0]
    assert found.results.reference is not None
    assert [score.task for score in found.results.reference.tasks] == ["hellaswag"]
    (candidate,) = found.results.candidates
    assert (candidate.type_k, candidate.type_v) == ("q4_0", None)
    assert candidate.tasks[0].comparisons[0].other == found.results.reference.name


def test_a_reference_with_another_cache_is_refused() -> None:
    reference = ModelUnderTest(apex.demo_model(), type_k="q8_0")
    with pytest.raises(ValueError, match="F16 KV cache"):
        apex.evaluate(reference, [apex.demo_model()], TEXT)


def test_labels_name_results(written: Path) -> None:
    demo = ModelUnderTest(apex.demo_model(), label="source")
    model = ModelUnderTest(written, label="mine", placement=Placement(n_threads=2))
    found = apex.evaluate(demo, [model], TEXT, **QUICK)
    assert found.results.reference is not None
    assert found.results.reference.name == "source"
    assert [candidate.name for candidate in found.results.candidates] == ["mine"]
    assert set(found.tokens) == {"source", "mine"}


def test_every_model_gets_a_name_of_its_own(written: Path) -> None:
    model = ModelUnderTest(written)
    folder = written.parent.name
    assert list(names_of([model, model, model])) == [
        "compact",
        f"{folder}/compact",
        f"{folder}/compact (2)",
    ]


def test_a_model_is_loaded_once_and_freed() -> None:
    demo, coded = ModelUnderTest(apex.demo_model()), ModelUnderTest(apex.demo_model(), type_v="f32")
    with ModelPool() as pool:
        model = pool.load(demo)
        assert pool.load(coded) is model
        pool.release(coded)
        with pytest.raises(ValueError, match="closed"):
            model.native  # noqa: B018
        again = pool.load(demo)
        assert again is not model
    with pytest.raises(ValueError, match="closed"):
        again.native  # noqa: B018


# --- the call -----------------------------------------------------------------------------------


def test_text_tasks_and_speed_are_one_call(
    written: Path, hellaswag: TaskSpec, tmp_path: Path
) -> None:
    shown: list[EvaluateProgress] = []
    output = tmp_path / "eval.json"
    found = apex.evaluate(
        apex.demo_model(), [written], TEXT, tasks=[hellaswag], n_tasks=4,
        speed=[SpeedSettings(2, n_prompt=16, repetitions=2)], output=output,
        progress=shown.append, **QUICK,
    )  # fmt: skip
    assert Results.load(output) == found.results
    assert found.results.reference is not None
    for model in (found.results.reference, *found.results.candidates):
        assert model.ppl is not None
        assert [score.task for score in model.tasks] == ["hellaswag"]
        assert [(test.test, len(test.samples)) for test in model.speed] == [("pp16", 2)]
    parts = [progress.part for progress in shown]
    assert parts == sorted(parts, key=["text", "tasks", "speed"].index)
    assert {"text", "tasks"} <= set(parts)
    assert list(found.tasks) == [found.results.reference.name, "compact"]
    assert [speed.name for speed in found.speed] == list(found.tasks)


@pytest.mark.usefixtures("frequent_looks")
def test_a_set_event_cancels(written: Path) -> None:
    cancel = threading.Event()

    def stop(_: EvaluateProgress) -> None:
        cancel.set()

    text = Text("long", demo_text(400_000, seed=2))
    with pytest.raises(Cancelled):
        apex.evaluate(apex.demo_model(), [written], text, n_threads=1, progress=stop, cancel=cancel)
    with pytest.raises(Cancelled):
        apex.evaluate(apex.demo_model(), [written], TEXT, cancel=cancel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": None, "candidates": []}, "at least one model"),
        ({"text": None}, "a text, a task or a speed test"),
        ({"reference": None, "save_base": "base.kld"}, "save_base needs"),
        ({"noise_chunks": -1}, "noise_chunks"),
        ({"type_v": "q6_K"}, "a KV cache cannot have type q6_K"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: dict[str, Any], message: str) -> None:
    demo = apex.demo_model()
    asked = {"reference": demo, "candidates": [demo], "text": TEXT, **arguments}
    with pytest.raises(ValueError, match=message):
        apex.evaluate(**asked)


def test_candidates_are_made_on_the_cpu_where_a_gpu_is_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []

    def make(device: str) -> int:
        asked.append(device)
        if device != "cpu":
            raise DeviceError("no room")
        return 7

    with caplog.at_level("WARNING", logger="apex_native.quantization"):
        assert made_where_there_is_room(make, "cuda", "cpu") == (7, "cpu")
    assert asked == ["cuda", "cpu"]
    assert "quantizing on the CPU: no room" in caplog.text

    def fail(device: str) -> int:
        raise DeviceError(f"not on {device}")

    with pytest.raises(DeviceError, match="not on cpu"):
        made_where_there_is_room(fail, "cuda", "cpu")
