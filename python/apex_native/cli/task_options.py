"""Tasks on the command line: their options."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from apex_native.evaluation.tasks import TaskSpec

__all__ = ["CompatChoice", "TaskChoices"]

TASKS = "Tasks"


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

    all_questions: Annotated[
        bool,
        typer.Option(
            "--all-questions",
            rich_help_panel=TASKS,
            help="Fail where a question is longer than a model's context instead of leaving it "
            "out and counting it.",
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `apex_native.evaluate`."""
        return {
            "tasks": self.specs,
            "n_tasks": self.tasks_limit,
            "compat": self.compat is CompatChoice.UPSTREAM,
            "skip_too_long": not self.all_questions,
        }

    @property
    def specs(self) -> list[TaskSpec]:
        """The tasks that were asked for; empty where no task was asked for."""
        from apex_native.evaluation.tasks import TaskKind, TaskSpec

        groups = (
            (TaskKind.HELLASWAG, self.hellaswag),
            (TaskKind.WINOGRANDE, self.winogrande),
            (TaskKind.MULTIPLE_CHOICE, self.multiple_choice),
        )
        return [TaskSpec.parse(kind, text) for kind, texts in groups for text in texts or ()]
