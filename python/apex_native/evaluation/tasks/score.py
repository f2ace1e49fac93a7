"""Scores of answers: the model's mean log-probability of each, and which one it therefore gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core, forward_log
from apex_native.engine import Model
from apex_native.evaluation.tasks.checkpoint import TaskCheckpoint
from apex_native.evaluation.tasks.items import GapItem
from apex_native.evaluation.tasks.prepare import Answer, PreparedItem
from apex_native.interrupt import run_interruptible
from apex_native.types import GgmlType

__all__ = ["ScoredItem", "ScoringOptions", "score_items"]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How to compute; none of it changes what is computed, only its rounding.

    n_ubatch: tokens of a batch. type_k, type_v: types of the KV cache, which do change scores.
    max_state_bytes: memory for the states of recurrent layers.
    """

    n_ubatch: int = 512
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    max_state_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """Mean log-probability of each answer in nats a token, the answer given, and if it is right.

    finite is False where logits were NaN or infinite; such an item is not correct.
    """

    scores: tuple[float, ...]
    answer: int
    correct: bool
    finite: bool = True


def score_items(
    model: Model,
    prepared: Sequence[PreparedItem],
    options: ScoringOptions | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    checkpoint: TaskCheckpoint | None = None,
    identity: object = None,
) -> list[ScoredItem]:
    """Score prepared items with a model, in their order; Ctrl-C is heard.

    What the answers of an item share is computed once, and many items at a time. The answer given
    is the one with the highest mean log-probability; of equal ones the first (Winogrande: the
    second). Where a model's logits are not finite the scores are NaN and the item is not correct.
    progress gets the share that is done, 0 to 1, about ten times a second. checkpoint: where
    finished groups of items are kept and taken from; identity names model, build and device there.

    Raises ModelError where llama.cpp cannot compute, Cancelled, ValueError for options.
    """
    if not prepared:
        return []
    options = options or ScoringOptions()
    answers = [answer for item in prepared for answer in item.answers]
    keeper = None if checkpoint is None else (checkpoint, identity)
    log_probs = _log_probs(model, prepared, options, progress, keeper)
    means = _means(answers, log_probs)
    scored: list[ScoredItem] = []
    first = 0
    for item in prepared:
        scores = tuple(means[first : first + len(item.answers)])
        first += len(item.answers)
        scored.append(_decide(item, scores))
    return scored


def _log_probs(
    model: Model,
    prepared: Sequence[PreparedItem],
    options: ScoringOptions,
    progress: Callable[[float], None] | None,
    keeper: tuple[TaskCheckpoint, object] | None,
) -> npt.NDArray[np.float64]:
    """Log-probability of every scored token, in the order of items, answers and runs."""
    runs = [[run for answer in item.answers for run in answer.runs] for item in prepared]
    all_runs = [run for of_item in runs for run in of_item]
    if not all_runs:
        return np.empty(0)
    stop = core.StopFlag()
    scorer = core.ChoiceScorer(
        model.native,
        n_threads=model.n_threads,
        n_ubatch=options.n_ubatch,
        type_k=options.type_k.id,
        type_v=options.type_v.id,
        max_state_bytes=options.max_state_bytes,
        stop=stop,
    )
    tokens = np.concatenate([run.tokens for run in all_runs], dtype=np.int32)
    sequence_begin = _offsets(len(run.tokens) for run in all_runs)
    scored_begin = np.array([run.begin for run in all_runs], dtype=np.int64)
    task_begin = _offsets(len(of_item) for of_item in runs if of_item)
    arrays = (tokens, sequence_begin, scored_begin, task_begin)
    log_probs = _run(scorer, stop, arrays, options, progress, keeper)
    forward_log()
    return log_probs


def _run(
    scorer: Any,
    stop: Any,
    arrays: tuple[Any, ...],
    options: ScoringOptions,
    progress: Callable[[float], None] | None,
    keeper: tuple[TaskCheckpoint, object] | None,
) -> npt.NDArray[np.float64]:
    """Score, keeping what is finished on the way and, where it is stopped, at the end."""
    checkpoint, identity = keeper or (None, None)
    key = "" if checkpoint is None else checkpoint.key((identity, options), arrays)

    def tick() -> None:
        if progress is not None:
            progress(_share_done(scorer))
        if checkpoint is not None:
            checkpoint.tick(key, scorer.finished)

    before = None if checkpoint is None else checkpoint.load(key)
    try:
        log_probs: npt.NDArray[np.float64] = run_interruptible(
            lambda: scorer.score(*arrays, before), stop.set, tick
        )
    except BaseException as error:
        if checkpoint is not None:
            checkpoint.save(key, scorer.finished())
            checkpoint.explain(error)
        raise
    if checkpoint is not None:
        checkpoint.save(key, scorer.finished())
    return log_probs


def _offsets(lengths: Any) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(np.fromiter(lengths, dtype=np.int64))))


def _share_done(scorer: Any) -> float:
    n_tokens = int(scorer.n_tokens)
    return int(scorer.n_tokens_done) / n_tokens if n_tokens else 0.0


def _means(answers: Sequence[Answer], log_probs: npt.NDArray[np.float64]) -> list[float]:
    means: list[float] = []
    first = 0
    for answer in answers:
        n_terms = sum(len(run.tokens) - run.begin for run in answer.runs)
        terms = log_probs[first : first + n_terms]
        first += n_terms
        if answer.underflows and n_terms:
            terms = terms.copy()
            with np.errstate(under="ignore", divide="ignore"):
                terms[0] = np.log(np.float64(np.float32(np.exp(terms[0]))))
        # As llama-perplexity divides: 0 / 0 is NaN.
        means.append(float(terms.sum()) / answer.n_scored if answer.n_scored else float("nan"))
    return means


def _decide(prepared: PreparedItem, scores: tuple[float, ...]) -> ScoredItem:
    item = prepared.item
    if isinstance(item, GapItem):
        answer = 0 if scores[0] > scores[1] else 1
    else:
        answer = 0
        for i, score in enumerate(scores):
            if score > scores[answer]:
                answer = i
    undefined = any(
        math.isnan(score) and tokens.n_scored != 0
        for score, tokens in zip(scores, prepared.answers, strict=True)
    )
    return ScoredItem(scores, answer, item.correct[answer] and not undefined, not undefined)
