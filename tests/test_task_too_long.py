"""Questions longer than a model's context: left out, counted and said, or refused when asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from apex_native.engine import Model, load_model
from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import ChoiceItem, TaskFile, TaskKind, single_correct
from apex_native.evaluation.tasks.run import score_task
from apex_native.evaluation.tasks.selection import Selection
from apex_native.results import unpack_items
from tiny_models import write_tiny_model

N_CTX = 64
LONG = (2, 5)


def item(i: int, n_words: int) -> ChoiceItem:
    endings = tuple(f"answer {word}" for word in ["one", "two", "three"])
    return ChoiceItem("word " * n_words, endings, single_correct(i % 3, 3), f"question {i}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("m") / "t.gguf", "llama", n_ctx=N_CTX)
    with load_model(path, n_threads=2) as loaded:
        yield loaded


@pytest.fixture
def task() -> TaskFile:
    items = tuple(item(i, 200 if i in LONG else 4) for i in range(1, 8))
    return TaskFile(TaskKind.MULTIPLE_CHOICE, "quiz", "quiz.bin", "0" * 64, items)


def selection(task: TaskFile) -> Selection:
    return Selection(task.items, f"all {len(task.items)}")


def test_long_questions_are_left_out_counted_and_named(
    model: Model, task: TaskFile, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "apex_native.tasks"):
        score = score_task(model, task, selection(task))
    assert (score.n, score.n_skipped) == (5, 2)
    assert score.selection == "all 7, without 2, 5 (too long)"
    assert "2 of 7 quiz questions are longer than its context of 64 tokens" in caplog.text
    assert "question 2, question 5" in caplog.text
    short = tuple(question for i, question in enumerate(task.items, 1) if i not in LONG)
    alone = score_task(model, task, Selection(short, "five"))
    assert score.items == alone.items
    assert len(unpack_items(score.items or "", 5)) == 5


def test_a_long_question_is_refused_when_asked(model: Model, task: TaskFile) -> None:
    with pytest.raises(DataError, match=r"question 2: with answer 1 it has .* of the model's"):
        score_task(model, task, selection(task), skip_too_long=False)


def test_a_file_of_long_questions_alone_is_refused(model: Model, task: TaskFile) -> None:
    long = Selection((task.items[1], task.items[4]), "two")
    with pytest.raises(DataError, match="all 2 questions are longer than the 64 tokens"):
        score_task(model, task, long)
