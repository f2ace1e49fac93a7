"""Tasks on the command line: their options, their progress, and the table of their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.cli.output import Output
    from apex_native.evaluation.tasks import TaskProgress, TaskSpec
    from apex_native.results import McNemar, TaskScore

__all__ = ["CompatChoice", "TaskChoices", "show_tasks", "task_progress"]

TASKS = "Tasks"

_STEPS = 1000
"""Of a progress that is known as a share only."""


class CompatChoice(StrEnum):
    """Whose bugs to reproduce."""

    UPSTREAM = "upstream"


def _file_option(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, metavar="[NAME=]FILE", rich_help_panel=TASKS, help=text
    )
    return option


@dataclass(frozen=True)
class TaskChoices:
    """Which tasks to ask, and how many questions of each."""

    hellaswag: Annotated[
        list[str] | None,
        _file_option(
            "--hellaswag",
            "HellaSwag: hellaswag_val_full.txt, or records in .jsonl or .parquet; repeatable. "
            "FILE may be hf://datasets/OWNER/NAME@COMMIT/path in every task option.",
        ),
    ] = None
    winogrande: Annotated[
        list[str] | None,
        _file_option("--winogrande", "Winogrande: winogrande-debiased-eval.csv, or records."),
    ] = None
    multiple_choice: Annotated[
        list[str] | None,
        _file_option(
            "--multiple-choice",
            "MMLU, ARC, TruthfulQA, ...: llama-perplexity's binary files, or records; NAME= names "
            "them in results (mmlu, arc, truthfulqa).",
        ),
    ] = None
    tasks_limit: Annotated[
        int,
        typer.Option(
            "--tasks-limit",
            min=0,
            metavar="N",
            rich_help_panel=TASKS,
            help="Questions of each file, drawn as llama-perplexity draws them; 0 is all.",
        ),
    ] = 400
    compat: Annotated[
        CompatChoice | None,
        typer.Option(
            "--compat",
            rich_help_panel=TASKS,
            help="upstream: reproduce llama-perplexity's bugs in tasks.",
        ),
    ] = None

    @property
    def specs(self) -> list[TaskSpec]:
        """What `evaluate_tasks` takes; empty where no task was asked for."""
        from apex_native.evaluation.tasks import TaskKind, TaskSpec

        groups = (
            (TaskKind.HELLASWAG, self.hellaswag),
            (TaskKind.WINOGRANDE, self.winogrande),
            (TaskKind.MULTIPLE_CHOICE, self.multiple_choice),
        )
        return [TaskSpec.parse(kind, text) for kind, texts in groups for text in texts or ()]


@contextmanager
def task_progress(out: Output) -> Iterator[Callable[[TaskProgress], None] | None]:
    """The callback for `evaluate_tasks`, None when quiet."""
    from apex_native.cli.progress import eta_text, show_share

    with show_share(out, "tasks") as show:
        if show is None:
            yield None
            return

        def update(progress: TaskProgress) -> None:
            state = f"{progress.model}: {progress.task}, {eta_text(progress.eta_s)}"
            show(round(progress.done * _STEPS), _STEPS, state)

        yield update


def show_tasks(out: Output, scores: Mapping[str, tuple[TaskScore, ...]]) -> None:
    """A table of all scores, each marked where guessing could have given it, and who is better."""
    rows = [_row(name, score) for name, own in scores.items() for score in own]
    if not rows:
        return
    columns = (
        Column("model"),
        Column("task"),
        Column("questions", right=True),
        Column("score %", right=True),
        Column("95 % interval", right=True),
        Column("chance %", right=True),
        Column("than the others", wraps=True),
    )
    notes = []
    if any(_at_chance(score) for own in scores.values() for score in own):
        notes.append("NOT DISTINGUISHABLE FROM CHANCE: guessing gives such a score.")
    if len(scores) > 1:
        notes.append("McNemar's exact test on the same questions at 5 %, one by one.")
    out.table(Table(columns, rows, notes=tuple(notes)))


def _at_chance(score: TaskScore) -> bool:
    from apex_native.reports.numbers import at_chance

    return at_chance(score)


def _row(name: str, score: TaskScore) -> tuple[str, ...]:
    mark = " NOT DISTINGUISHABLE FROM CHANCE" if _at_chance(score) else ""
    compat = f" (compat {score.compat})" if score.compat else ""
    return (
        name,
        score.task + compat,
        str(score.n),
        f"{100 * score.score:.1f}{mark}",
        f"{100 * score.low:.1f} to {100 * score.high:.1f}",
        f"{100 * score.chance:.1f}",
        _verdicts(score.comparisons),
    )


def _verdicts(tests: tuple[McNemar, ...]) -> str:
    return ", ".join(
        f"{test.verdict.value}: {test.other} (p {_p_value(test.p_value)})" for test in tests
    )


def _p_value(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"
