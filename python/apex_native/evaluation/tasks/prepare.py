"""From items to tokens: which tokens of which sequence decide about each answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.engine import Model, Tokens
from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import ChoiceItem, GapItem, Item

__all__ = [
    "MIN_TRAILING",
    "Answer",
    "PreparedItem",
    "ScoredRun",
    "fitting_items",
    "gap_spans",
    "prepare_items",
    "shared_prefix",
    "tokenize_item",
]

MIN_TRAILING = 3
"""Winogrande: only where both sentences go on for more tokens than this after what they share are
the choices themselves left out of the score (perplexity.cpp, k_min_trailing_ctx)."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """Tokens of which those from ``begin`` on are scored, each given all before it."""

    tokens: Tokens
    begin: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer's score is made of: the sum of the runs' log-probabilities / n_scored."""

    runs: tuple[ScoredRun, ...]
    n_scored: int
    underflows: bool = False
    """The first probability passes through a float, as in llama-perplexity: below 1e-45 it is 0."""


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item and its answers in tokens."""

    item: Item
    answers: tuple[Answer, ...]


def tokenize_item(model: Model, item: Item) -> list[Tokens]:
    """The tokens of the text with each answer in it, as llama-perplexity joins and reads them."""
    if isinstance(item, ChoiceItem):
        texts = [f"{item.context} {ending}" for ending in item.endings]
    else:
        texts = [item.before + choice + item.after for choice in item.choices]
    return [model.tokenize(text, add_special=True, parse_special=False) for text in texts]


def shared_prefix(sequences: Sequence[Tokens]) -> int:
    """How many first tokens all sequences have in common."""
    n = min(len(tokens) for tokens in sequences)
    same = np.ones(n, dtype=bool)
    for tokens in sequences[1:]:
        same &= tokens[:n] == sequences[0][:n]
    return n if same.all() else int(same.argmin())


def gap_spans(
    model: Model, item: GapItem, sequences: Sequence[Tokens], prefix: int
) -> list[tuple[int, int]]:
    """For each sentence, where llama-perplexity begins and how many last tokens it leaves out.

    It begins behind the choice where both sentences are long enough, else where they part, behind
    ``prefix`` tokens; the last token counts only where it is the only one.
    """
    begins = [prefix] * len(sequences)
    if all(len(tokens) - prefix > MIN_TRAILING for tokens in sequences):
        begins = [
            len(model.tokenize(item.before + choice, add_special=True, parse_special=False))
            for choice in item.choices
        ]
    return [
        (begin, 1 if len(tokens) - begin > 1 else 0)
        for begin, tokens in zip(begins, sequences, strict=True)
    ]


def prepare_items(model: Model, items: Iterable[Item]) -> list[PreparedItem]:
    """What to score for each item; DataError for one that is too long for the model.

    As llama-perplexity does it, but right where that reads other tokens than it means to: an
    answer that is the beginning of all others keeps its last token to be scored by, as do the
    others, and where not even the first token is shared (no BOS) the first one, which nothing
    precedes, is not scored.
    """
    prepared: list[PreparedItem] = []
    for item in items:
        sequences = tokenize_item(model, item)
        _check_lengths(model, item, sequences)
        if isinstance(item, GapItem):
            answers = _gap_answers(model, item, sequences)
        else:
            shortest = min(len(tokens) for tokens in sequences)
            begin = min(shared_prefix(sequences), shortest - 1)
            answers = [_answer(tokens, begin, 0) for tokens in sequences]
        prepared.append(PreparedItem(item, tuple(answers)))
    return prepared


def fitting_items(model: Model, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The items that fit the model's context, and those that do not."""
    kept: list[Item] = []
    too_long: list[Item] = []
    for item in items:
        longest = max(len(tokens) for tokens in tokenize_item(model, item))
        (kept if longest <= model.n_ctx_train else too_long).append(item)
    return kept, too_long


def _gap_answers(model: Model, item: GapItem, sequences: Sequence[Tokens]) -> list[Answer]:
    prefix = shared_prefix(sequences)
    spans = gap_spans(model, item, sequences, prefix)
    if any(begin >= len(tokens) for (begin, _), tokens in zip(spans, sequences, strict=True)):
        # Nothing follows the choice: it decides itself.
        spans = [(prefix, 0)] * len(sequences)
    return [
        _answer(tokens, begin, n_left_out)
        for (begin, n_left_out), tokens in zip(spans, sequences, strict=True)
    ]


def _answer(tokens: Tokens, begin: int, n_left_out: int) -> Answer:
    end = len(tokens) - n_left_out
    begin = max(1, min(begin, end - 1))
    end = max(end, begin + 1)
    return Answer((ScoredRun(tokens[:end], begin),), end - begin)


def _check_lengths(model: Model, item: Item, sequences: Sequence[Tokens]) -> None:
    for i, tokens in enumerate(sequences, 1):
        if len(tokens) < 2:
            raise DataError(
                f"{item.place}: with answer {i} it has {len(tokens)} tokens, at least 2 are needed"
                "; leave it out"
            )
        if len(tokens) > model.n_ctx_train:
            raise DataError(
                f"{item.place}: with answer {i} it has {len(tokens):,} tokens, more than the "
                f"{model.n_ctx_train:,} of the model's context; leave it out"
            )
