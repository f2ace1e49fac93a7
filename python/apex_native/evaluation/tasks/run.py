"""Tasks of several models: each loaded once, scored, and compared on the same items."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from apex_native.engine import Model
from apex_native.errors import DataError
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.record import make_build
from apex_native.evaluation.tasks.checkpoint import TaskCheckpoint
from apex_native.evaluation.tasks.items import ChoiceItem, Item, TaskFile, chance_level
from apex_native.evaluation.tasks.open import TaskSpec, open_task
from apex_native.evaluation.tasks.prepare import fitting_items, prepare_items
from apex_native.evaluation.tasks.score import ScoredItem, ScoringOptions, score_items
from apex_native.evaluation.tasks.selection import Selection, select_items
from apex_native.evaluation.tasks.statistics import compare_scores, score_statistics
from apex_native.evaluation.tasks.upstream import prepare_upstream
from apex_native.results import TaskScore, pack_items

__all__ = [
    "UPSTREAM",
    "OpenTask",
    "TaskOptions",
    "TaskProgress",
    "evaluate_tasks",
    "open_tasks",
    "score_task",
]

UPSTREAM = "upstream"
"""What results say in ``compat`` where llama-perplexity's bugs were reproduced."""

_NAMED = 3
"""Questions that a warning names; the rest is counted."""

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
class OpenTask:
    """A task file and the items of it that are asked."""

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


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Task files, how many items of each, and whether as llama-perplexity does, bugs included.

    n_tasks: items of each file, drawn as llama-perplexity draws them; None or 0 for all. compat:
    `upstream` lists the bugs. skip_too_long: leave out items that exceed a model's context, and
    count them, instead of refusing the file; with compat nothing is left out.
    """

    specs: tuple[TaskSpec, ...] = ()
    n_tasks: int | None = 400
    compat: bool = False
    skip_too_long: bool = True


def open_tasks(options: TaskOptions) -> tuple[OpenTask, ...]:
    """Read all files and choose their items, before any model is loaded.

    Raises DataError for a task file, naming the place, or for names that are used twice.
    """
    opened: list[OpenTask] = []
    for spec in options.specs:
        file = open_task(spec, upstream=options.compat)
        if any(task.file.name == file.name for task in opened):
            raise DataError(
                f"two tasks have the name '{file.name}'; name one of them: name={spec.source}"
            )
        opened.append(OpenTask(file, select_items(file, options.n_tasks)))
    return tuple(opened)


def evaluate_tasks(
    models: Mapping[str, ModelUnderTest],
    tasks: Sequence[OpenTask],
    *,
    compat: bool = False,
    skip_too_long: bool = True,
    pool: ModelPool | None = None,
    known: Mapping[str, Sequence[TaskScore]] | None = None,
    checkpoint: TaskCheckpoint | None = None,
    progress: Callable[[TaskProgress], None] | None = None,
    finished: Callable[[str, tuple[TaskScore, ...]], None] | None = None,
) -> dict[str, tuple[TaskScore, ...]]:
    """Score models in tasks; one entry a model, one score a task, in order.

    Each model answers with its own KV cache. compat: reproduce llama-perplexity's bugs (`upstream`
    lists them). A model is taken from the pool, or loaded, and freed before the next. finished is
    called with each model's name and scores as soon as it is done, so that a caller that is
    interrupted keeps them; the result also has McNemar's tests of every model against every other.
    known: scores of earlier results by model; what was asked there is not asked again. checkpoint:
    where finished items of a task are kept.

    Raises ModelError and GgufError for a model.
    """
    weight = sum(task.weight for task in tasks)
    shown = _Progress(weight * len(models), progress)
    scores: dict[str, tuple[TaskScore, ...]] = {}
    pool = pool if pool is not None else ModelPool()
    for name, tested in models.items():
        own: list[TaskScore] = []
        before = _asked_before((known or {}).get(name, ()), tasks, compat=compat)
        shown.at(name, "loading", 0, 0.0)
        try:
            options = ScoringOptions(type_k=tested.type_k, type_v=tested.type_v)
            for task in tasks:
                if task.file.name in before:
                    own.append(before[task.file.name])
                    shown.finish(task.weight)
                    continue
                own.append(
                    score_task(
                        pool.load(tested),
                        task.file,
                        task.selection,
                        compat=compat,
                        skip_too_long=skip_too_long,
                        options=options,
                        checkpoint=checkpoint,
                        identity=_identity(tested),
                        progress=lambda share, name=name, task=task: shown.at(  # type: ignore[misc]
                            name, task.file.name, task.weight, share
                        ),
                    )
                )
                shown.finish(task.weight)
        finally:
            pool.release(tested)
        scores[name] = tuple(own)
        if finished is not None:
            finished(name, scores[name])
    return compare_scores(scores)


def _asked_before(
    scores: Sequence[TaskScore], tasks: Sequence[OpenTask], *, compat: bool
) -> dict[str, TaskScore]:
    """Scores of the same items of the same files, without their comparisons."""
    wanted = {task.file.name: task for task in tasks}
    found = {}
    for score in scores:
        task = wanted.get(score.task)
        if task is None or score.items is None:
            continue
        there = (score.data_sha256, score.selection, score.compat, score.n)
        here = (
            task.file.sha256,
            task.selection.description,
            UPSTREAM if compat else None,
            len(task.selection.items),
        )
        if there == here:
            found[score.task] = replace(score, comparisons=())
    return found


def _identity(tested: ModelUnderTest) -> tuple[object, ...]:
    """What a checkpoint's numbers depend on, beside the tokens."""
    return (
        tested.source.fingerprint,
        tested.placement.on_gpu,
        tested.placement.flash_attn,
        make_build(),
    )


def score_task(
    model: Model,
    file: TaskFile,
    selection: Selection,
    *,
    compat: bool = False,
    skip_too_long: bool = True,
    options: ScoringOptions | None = None,
    progress: Callable[[float], None] | None = None,
    checkpoint: TaskCheckpoint | None = None,
    identity: object = None,
) -> TaskScore:
    """A loaded model's score in the selected items of a file, with interval and chance level.

    skip_too_long: without those that exceed its context (with compat all are asked). Raises
    DataError where none is left, and for the first that is too long where none may be skipped.
    """
    n_skipped = 0
    if skip_too_long and not compat:
        selection, n_skipped = _fitting(model, file, selection)
    prepare = prepare_upstream if compat else prepare_items
    scored = score_items(
        model, prepare(model, selection.items), options,
        progress=progress, checkpoint=checkpoint, identity=identity,
    )  # fmt: skip
    n_not_finite = sum(not item.finite for item in scored)
    if n_not_finite:
        _logger.warning(
            "%s: logits of %d of %d %s items are not finite: they count as wrong, "
            "and the score is not valid",
            model.path,
            n_not_finite,
            len(scored),
            file.name,
        )
    return _task_score(file, selection, scored, n_skipped, compat=compat)


def _fitting(model: Model, file: TaskFile, selection: Selection) -> tuple[Selection, int]:
    """The selection without what is too long, named so that only equal ones are compared."""
    kept, too_long = fitting_items(model, selection.items)
    if not too_long:
        return selection, 0
    if not kept:
        raise DataError(
            f"{file.name}: all {len(too_long)} questions are longer than the {model.n_ctx_train:,} "
            "tokens of the model's context; give shorter ones"
        )
    named = ", ".join(item.place for item in too_long[:_NAMED])
    more = f" and {len(too_long) - _NAMED} more" if len(too_long) > _NAMED else ""
    _logger.warning(
        "%s: %d of %d %s questions are longer than its context of %d tokens and are left out: %s%s",
        model.path, len(too_long), len(selection.items), file.name, model.n_ctx_train, named, more,
    )  # fmt: skip
    left_out = {id(item) for item in too_long}
    numbers = [str(i) for i, item in enumerate(selection.items, 1) if id(item) in left_out]
    description = f"{selection.description}, without {', '.join(numbers)} (too long)"
    return Selection(tuple(kept), description), len(too_long)


def _task_score(
    file: TaskFile,
    selection: Selection,
    scored: Sequence[ScoredItem],
    n_skipped: int,
    *,
    compat: bool,
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
        n_skipped=n_skipped,
        n_not_finite=sum(not item.finite for item in scored),
    )
