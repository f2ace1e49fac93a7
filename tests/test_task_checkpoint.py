"""Tasks that are stopped go on where they were; tasks that are done are not asked again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_native.engine import Model, load_model
from apex_native.evaluation.tasks import run as task_run
from apex_native.evaluation.tasks.checkpoint import TaskCheckpoint
from apex_native.evaluation.tasks.items import ChoiceItem
from apex_native.evaluation.tasks.prepare import prepare_items
from apex_native.evaluation.tasks.score import ScoringOptions, score_items
from calibration_models import write_expert_model
from cli_tools import invoke
from verb_runs import write_inputs

OPTIONS = ScoringOptions(n_ubatch=64)
"""Small batches, so that there are many groups."""


class StoppedError(Exception):
    """Raised by a caller in the middle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = write_expert_model(tmp_path_factory.mktemp("tasks") / "model.gguf")
    return load_model(path, n_threads=2)


def items(n: int) -> list[ChoiceItem]:
    right = (True, False, False)
    return [
        ChoiceItem(f"Question {i}: how many?", (f"{i}", f"{i + 1}", "none"), right, f"item {i}")
        for i in range(n)
    ]


def stop_at(share: float) -> object:
    def progress(done: float) -> None:
        if done >= share:
            raise StoppedError

    return progress


@pytest.mark.usefixtures("frequent_looks")
def test_stopped_tasks_go_on_to_the_same_numbers(model: Model, tmp_path: Path) -> None:
    prepared = prepare_items(model, items(3000))
    whole = score_items(model, prepared, OPTIONS)
    path = tmp_path / "tasks.npz"
    with pytest.raises(StoppedError) as stop:
        score_items(
            model, prepared, OPTIONS,
            progress=stop_at(0.1), checkpoint=TaskCheckpoint(path), identity="model",
        )  # type: ignore[arg-type]  # fmt: skip
    assert str(path) in stop.value.__notes__[0]
    first: list[float] = []
    resumed = score_items(
        model, prepared, OPTIONS,
        progress=first.append, checkpoint=TaskCheckpoint(path), identity="model",
    )  # fmt: skip
    assert resumed == whole


def test_another_model_takes_nothing_over(model: Model, tmp_path: Path) -> None:
    prepared = prepare_items(model, items(40))
    checkpoint = TaskCheckpoint(tmp_path / "tasks.npz")
    score_items(model, prepared, OPTIONS, checkpoint=checkpoint, identity="one")
    (key,) = checkpoint._known
    groups, log_probs = checkpoint._known[key]
    checkpoint._known[key] = (groups, log_probs - 1)
    same = score_items(model, prepared, OPTIONS, checkpoint=checkpoint, identity="one")
    other = score_items(model, prepared, OPTIONS, checkpoint=checkpoint, identity="two")
    assert other == score_items(model, prepared, OPTIONS)
    assert same != other  # what is there is used: it was made wrong on purpose


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "tasks.npz"
    path.write_bytes(b"PK no archive")
    assert TaskCheckpoint(path).load("key") is None


def test_tasks_in_the_results_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    path = write_expert_model(tmp_path / "model.gguf")
    command = ("eval", path, "--hellaswag", tmp_path / "hellaswag.txt", "-o", tmp_path / "t.json")
    assert invoke(*command).exit_code == 0
    before = json.loads((tmp_path / "t.json").read_text())["candidates"]

    def asked(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(task_run, "score_task", asked)
    again = invoke(*command)
    assert again.exit_code == 0, again.stderr
    assert json.loads((tmp_path / "t.json").read_text())["candidates"] == before
