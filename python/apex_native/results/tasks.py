"""Scores of tasks: what was answered correctly, how sure that is, and what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from apex_native.errors import ResultsError
from apex_native.results.verdict import Verdict

__all__ = ["McNemar", "TaskScore", "pack_items", "unpack_items"]


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two models on the same items, by the items that only one of them answered correctly.

    verdict is about the model this stands at, against ``other`` (a candidate's name or the
    reference's).
    """

    other: str
    n_only_here: int
    n_only_there: int
    p_value: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A model's score in one task.

    score is the share of n items answered correctly; low and high are its Wilson interval
    (95 %); chance is the expected score of guessing on these very items. Where
    distinguishable_from_chance is false no report shows the score without a mark.
    """

    task: str
    """"hellaswag", "winogrande", "mmlu", "arc", "truthfulqa", or another name."""
    n: int
    score: float
    low: float
    high: float
    chance: float
    distinguishable_from_chance: bool
    data_sha256: str | None = None
    """SHA-256 of the task file."""
    selection: str | None = None
    """Which items of the file, as a reader can repeat it: "first 400", "400 of 10042, seed 1"."""
    compat: str | None = None
    """"upstream" where a known bug of llama-perplexity was reproduced on purpose."""
    items: str | None = field(default=None, repr=False)
    """`pack_items` of correct or not, in the order of the selection."""
    comparisons: tuple[McNemar, ...] = ()
    n_skipped: int = 0
    """Items of the selection that exceed the model's context and are left out of n."""
    n_not_finite: int = 0
    """Items of n with log-probabilities that are not finite: counted as wrong, and the score is
    not valid."""


def pack_items(correct: Sequence[bool]) -> str:
    """Bits as hexadecimal digits, the first item in the highest bit of the first digit."""
    digits = []
    for start in range(0, len(correct), 4):
        four = [bool(value) for value in correct[start : start + 4]]
        four += [False] * (4 - len(four))
        digits.append(f"{sum(bit << (3 - i) for i, bit in enumerate(four)):x}")
    return "".join(digits)


def unpack_items(text: str, n: int) -> tuple[bool, ...]:
    """The n items of `pack_items`; ResultsError where text does not hold exactly n."""
    if len(text) != (n + 3) // 4 or not set(text) <= set("0123456789abcdef"):
        raise ResultsError(
            f"items: expected {(n + 3) // 4} hexadecimal digits for {n} items, found {text[:40]!r}"
            f" ({len(text)} characters); evaluate the task again"
        )
    bits = tuple(bool(int(digit, 16) >> (3 - i) & 1) for digit in text for i in range(4))
    if any(bits[n:]):
        raise ResultsError(f"items: bits are set beyond the {n} items; evaluate the task again")
    return bits[:n]
