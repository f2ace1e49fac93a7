"""Tasks of several models: each loaded once, scored, and compared on the same items."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex_native.engine import Model, load_model
from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import ChoiceItem, Item, TaskFile, chance_level
from apex_native.evaluation.tasks.open import TaskSpec, open_task
from apex_native.evaluation.tasks.prepare import prepare_items
from apex_native.evaluation.tasks.score import ScoredItem, ScoringOptions, score_items
from apex_native.evaluation.tasks.selection import Selection, select_items
from apex_native.evaluation.tasks.statistics import compare_scores, score_statistics
from apex_native.evaluation.tasks.upstream import prepare_upstream
from apex_native.results import TaskScore, pack_items

__all__ = ["UPSTREAM", "TaskProgress", "evaluate_tasks", "score_task"]

UPSTREAM = "upstream"
"""What results say in ``compat`` where llama-perplexity's bugs were reproduced."""

_logger = logging.getLogger("apex_native.tasks")


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far `evaluate_tasks` is: the model and task at work, and the share of all that is done.

    eta_s is None until there is something to go by.
    """

    model: str
    task: str
    done: float
    elapsed_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class _OpenTask:
    file: TaskFile
    selection: Selection

    @property
    def weight(self) -> int:
        """Characters to compute, about: what progress is measured in."""
        return sum(_n_chars(item) for item in self.selection.items)


def _n_chars(item: Item) -> int:
    if isinstance(item, ChoiceItem):
        return len(item.context) + sum(len(ending) for ending in item.endings)
    return 2 * (len(item.before) + len(item.after)) + sum(len(choice) for choice in item.choices)


class _Progress:
    """Turns "this share of this task" into a share of everything."""

    def __init__(self, total: int, report: Callable[[TaskProgress], None] | None) -> None:
        self._total = max(total, 1)
        self._report = report
        self._begin = time.monotonic()
        self._finished = 0

    def at(self, model: str, task: str, weight: int, share: float) -> None:
        if self._report is None:
            return
        done = (self._finished + weight * share) / self._total
        elapsed = time.monotonic() - self._begin
        eta = elapsed * (1 - done) / done if done > 0 else None
        self._report(TaskProgress(model, task, done, elapsed, eta))

    def finish(self, weight: int) -> None:
        self._finished += weight


def evaluate_tasks(
    models: Mapping[str, str | Path],
    tasks: Sequence[TaskSpec],
    *,
    n_tasks: int | None = 400,
    compat: bool = False,
    options: ScoringOptions | None = None,
    load: Callable[[Path], Model] = load_model,
    progress: Callable[[TaskProgress], None] | None = None,
    finished: Callable[[str, tuple[TaskScore, ...]], None] | None = None,
) -> dict[str, tuple[TaskScore, ...]]:
    """Score models, {name: path}, in tasks; one entry a model, one score a task, in order.

    n_tasks: items of each file, drawn as llama-perplexity draws them; None or 0 for all. compat:
    reproduce llama-perplexity's bugs (`upstream` lists them). load: how to load a model, for
    threads and GPUs. All files are read before the first model is loaded; a model is loaded once
    and freed before the next. finished is called with each model's name and scores as soon as it
    is done, so that a caller that is interrupted keeps them; the result also has McNemar's tests
    of every model against every other.

    Raises DataError for a task file, naming the place, or for names that are used twice;
    ModelError and GgufError for a model.
    """
    opened = _open_tasks(tasks, n_tasks, upstream=compat)
    weight = sum(task.weight for task in opened)
    shown = _Progress(weight * len(models), progress)
    scores: dict[str, tuple[TaskScore, ...]] = {}
    for name, path in models.items():
        own: list[TaskScore] = []
        shown.at(name, "loading", 0, 0.0)
        with load(Path(path)) as model:
            for task in opened:
                own.append(
                    score_task(
                        model,
                        task.file,
                        task.selection,
                        compat=compat,
                        options=options,
                        progress=lambda share, name=name, task=task: shown.at(  # type: ignore[misc]
                            name, task.file.name, task.weight, share
                        ),
                    )
                )
                shown.finish(task.weight)
        scores[name] = tuple(own)
        if finished is not None:
            finished(name, scores[name])
    return compare_scores(scores)


def _open_tasks(
    tasks: Sequence[TaskSpec], n_tasks: int | None, *, upstream: bool
) -> list[_OpenTask]:
    opened: list[_OpenTask] = []
    for spec in tasks:
        file = open_task(spec, upstream=upstream)
        if any(task.file.name == file.name for task in opened):
            raise DataError(
                f"two tasks have the name '{file.name}'; name one of them: name={spec.source}"
            )
        opened.append(_OpenTask(file, select_items(file, n_tasks)))
    return opened


def score_task(
    model: Model,
    file: TaskFile,
    selection: Selection,
    *,
    compat: bool = False,
    options: ScoringOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> TaskScore:
    """A loaded model's score in the selected items of a file, with interval and chance level."""
    prepare = prepare_upstream if compat else prepare_items
    scored = score_items(model, prepare(model, selection.items), options, progress=progress)
    n_not_finite = sum(not item.finite for item in scored)
    if n_not_finite:
        _logger.warning(
            "%s: logits of %d of %d %s items are not finite; these count as wrong",
            model.path,
            n_not_finite,
            len(scored),
            file.name,
        )
    return _task_score(file, selection, scored, compat=compat)


def _task_score(
    file: TaskFile, selection: Selection, scored: Sequence[ScoredItem], *, compat: bool
) -> TaskScore:
    correct = [item.correct for item in scored]
    chance = chance_level(selection.items)
    statistics = score_statistics(sum(correct), len(correct), chance)
    return TaskScore(
        task=file.name,
        n=len(correct),
        score=statistics.score,
        low=statistics.low,
        high=statistics.high,
        chance=chance,
        distinguishable_from_chance=statistics.distinguishable_from_chance,
        data_sha256=file.sha256,
        selection=selection.description,
        compat=UPSTREAM if compat else None,
        items=pack_items(correct),
    )
