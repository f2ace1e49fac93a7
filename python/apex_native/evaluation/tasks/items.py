"""Tasks as values: questions with answers to choose from, whatever file they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "MAX_ANSWERS",
    "ChoiceItem",
    "GapItem",
    "Item",
    "TaskFile",
    "TaskKind",
    "chance_level",
    "single_correct",
]

MAX_ANSWERS = 100
"""Most answers of one question; llama-perplexity reads no more from a file."""


class TaskKind(StrEnum):
    """How items are selected, tokenized and scored; llama-perplexity's three."""

    HELLASWAG = "hellaswag"
    WINOGRANDE = "winogrande"
    MULTIPLE_CHOICE = "multiple-choice"


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """A context and the endings that may follow it after a blank; place says where it was read."""

    context: str
    endings: tuple[str, ...]
    correct: tuple[bool, ...]
    place: str


@dataclass(frozen=True, slots=True)
class GapItem:
    """A sentence with a gap, the text before and after it, and the words that may fill it."""

    before: str
    after: str
    choices: tuple[str, str]
    correct: tuple[bool, ...]
    place: str


Item = ChoiceItem | GapItem


@dataclass(frozen=True, slots=True)
class TaskFile:
    """All items of a file, in its order; sha256 is that of its bytes."""

    kind: TaskKind
    name: str
    path: str
    sha256: str
    items: tuple[Item, ...]


def single_correct(index: int, n_answers: int) -> tuple[bool, ...]:
    """Flags of answers of which one is correct."""
    return tuple(i == index for i in range(n_answers))


def chance_level(items: Sequence[Item]) -> float:
    """Expected share of correct answers when guessing: the mean of correct / answers."""
    return sum(sum(item.correct) / len(item.correct) for item in items) / len(items)
