"""HellaSwag, Winogrande and multiple choice: what a model still knows, with how sure that is.

    tasks = open_tasks(TaskOptions((TaskSpec(TaskKind.HELLASWAG, "hellaswag_val_full.txt"),)))
    scores = evaluate_tasks({"mini": ModelUnderTest("mini.gguf")}, tasks)

Input: models and task files in llama-perplexity's formats, JSONL or parquet. Output: `TaskScore`
of `results` for each model and task.
"""

from __future__ import annotations

from apex_native.evaluation.tasks.binary import (
    AnswerSet,
    Question,
    format_questions,
    parse_questions,
    question_items,
)
from apex_native.evaluation.tasks.hellaswag import format_hellaswag, parse_hellaswag
from apex_native.evaluation.tasks.items import ChoiceItem, GapItem, Item, TaskFile, TaskKind
from apex_native.evaluation.tasks.open import TaskSpec, open_task
from apex_native.evaluation.tasks.run import (
    OpenTask,
    TaskOptions,
    TaskProgress,
    evaluate_tasks,
    open_tasks,
    score_task,
)
from apex_native.evaluation.tasks.score import ScoredItem, ScoringOptions
from apex_native.evaluation.tasks.selection import Selection, select_items
from apex_native.evaluation.tasks.statistics import compare_scores, mcnemar, score_statistics
from apex_native.evaluation.tasks.winogrande import format_winogrande, parse_winogrande

__all__ = [
    "AnswerSet",
    "ChoiceItem",
    "GapItem",
    "Item",
    "OpenTask",
    "Question",
    "ScoredItem",
    "ScoringOptions",
    "Selection",
    "TaskFile",
    "TaskKind",
    "TaskOptions",
    "TaskProgress",
    "TaskSpec",
    "compare_scores",
    "evaluate_tasks",
    "format_hellaswag",
    "format_questions",
    "format_winogrande",
    "mcnemar",
    "open_task",
    "open_tasks",
    "parse_hellaswag",
    "parse_questions",
    "parse_winogrande",
    "question_items",
    "score_statistics",
    "score_task",
    "select_items",
]
