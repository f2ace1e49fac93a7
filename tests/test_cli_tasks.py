"""Tasks on the command line: options, and a table in which no chance score goes unmarked."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from apex_native.cli.options import spread
from apex_native.cli.output import Output
from apex_native.cli.task_options import TaskChoices
from apex_native.cli.task_tables import show_tasks
from apex_native.evaluation.tasks import TaskKind, TaskSpec, score_statistics
from apex_native.results import Candidate, McNemar, Reference, Results, TaskScore, Verdict
from results_data import BUILD


def choices_of(*arguments: str) -> TaskChoices:
    given: list[TaskChoices] = []

    def command(tasks: TaskChoices) -> None:
        given.append(tasks)

    app = typer.Typer()
    app.command()(spread(command))
    run = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return given[0]


def test_nothing_asked_is_no_task() -> None:
    assert choices_of().specs == []
    assert choices_of().tasks_limit == 400
    assert choices_of().compat is None


def test_files_and_names() -> None:
    choices = choices_of(
        *("--multiple-choice", "mmlu=data/mmlu.bin", "--multiple-choice", "arc.jsonl"),
        *("--hellaswag", "hellaswag_val_full.txt", "--winogrande", "w.csv"),
        *("--tasks-limit", "0", "--compat", "upstream"),
    )
    assert choices.specs == [
        TaskSpec(TaskKind.HELLASWAG, "hellaswag_val_full.txt"),
        TaskSpec(TaskKind.WINOGRANDE, "w.csv"),
        TaskSpec(TaskKind.MULTIPLE_CHOICE, "data/mmlu.bin", "mmlu"),
        TaskSpec(TaskKind.MULTIPLE_CHOICE, "arc.jsonl"),
    ]
    assert choices.tasks_limit == 0
    assert choices.compat == "upstream"


def task_score(n_correct: int, **values: Any) -> TaskScore:
    found = score_statistics(n_correct, 200, 0.25)
    return TaskScore(
        task="arc",
        n=200,
        score=found.score,
        low=found.low,
        high=found.high,
        chance=0.25,
        distinguishable_from_chance=found.distinguishable_from_chance,
        **values,
    )


def table(scores: dict[str, tuple[TaskScore, ...]], capsys: pytest.CaptureFixture[str]) -> str:
    show_tasks(Output(), scores)
    return capsys.readouterr().out


@pytest.mark.parametrize("n_correct", [40, 50, 55, 62])
def test_no_chance_score_goes_unmarked(n_correct: int, capsys: pytest.CaptureFixture[str]) -> None:
    score = task_score(n_correct)
    text = table({"mini": (score,)}, capsys)
    marked = f"{100 * score.score:.1f} (chance)" in text
    inside = score.low <= 0.25 <= score.high
    assert marked == (inside or not score.distinguishable_from_chance)
    assert marked or n_correct in (40, 62)


@pytest.mark.parametrize("reference", [None, "m-bf16"])
def test_every_name_loses_what_all_begin_with(
    reference: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {name: (task_score(100),) for name in ("m-bf16", "m-Q8_0", "m-Q4_K_M")}
    models = tuple(Candidate(name) for name in scores if name != reference)
    first = None if reference is None else Reference(reference)
    show_tasks(Output(), scores, Results(BUILD, "2026-11-25T03:00:00Z", models, reference=first))
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert rows == ["bf16", "Q8_0", "Q4_K_M"]


def test_each_model_stands_against_the_next_smaller_one(capsys: pytest.CaptureFixture[str]) -> None:
    def tests(**p_values: float) -> tuple[McNemar, ...]:
        return tuple(
            McNemar(other, 30, 8, p, Verdict.BETTER if p < 0.05 else Verdict.NOT_DISTINGUISHABLE)
            for other, p in p_values.items()
        )

    scores = {
        "mini": (task_score(52, comparisons=tests(compact=1e-9, quality=1e-9)),),
        "quality": (task_score(150, comparisons=tests(compact=1e-9, mini=0.9)),),
        "compact": (task_score(130, comparisons=tests(quality=1e-9, mini=0.25)),),
    }
    sizes = {"mini": 10, "quality": 30, "compact": 20}
    models = tuple(Candidate(name, bytes=size) for name, size in sizes.items())
    show_tasks(Output(), scores, Results(BUILD, "2026-11-25T03:00:00Z", models))
    text = capsys.readouterr().out
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "ARC: 200 questions, guessing gives 25.0 %",
        "model score % 95 % interval than the next row",
        "quality 75.0 68.6 to 80.5 better (p < 0.0001)",
        "compact 65.0 58.2 to 71.3 unclear (p 0.25)",
        "mini 26.0 (chance) 20.4 to 32.5",
        "(chance): not distinguishable from guessing, so the score says nothing.",
        "Better, worse: McNemar's exact test on the same questions at 5 %; --json has every pair.",
        "",
    ]


def test_other_questions_are_another_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = table({"a": (task_score(150),), "b": (task_score(150, compat="upstream"),)}, capsys)
    titles = [line for line in text.splitlines() if line.startswith("ARC")]
    assert titles == [
        "ARC: 200 questions, guessing gives 25.0 %",
        "ARC: 200 questions, guessing gives 25.0 %, compat upstream",
    ]


def test_no_scores_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert table({"quality": ()}, capsys) == ""
