"""How sure a score is, whether guessing could have given it, and whether two models differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apex_native.results import McNemar, TaskScore, Verdict, unpack_items

__all__ = ["CONFIDENCE", "ScoreStatistics", "compare_scores", "mcnemar", "score_statistics"]

CONFIDENCE = 0.95
"""Of every interval; tests call a difference real where p is below 1 less this."""


@dataclass(frozen=True, slots=True)
class ScoreStatistics:
    """A share, its Wilson interval, and whether guessing is ruled out."""

    score: float
    low: float
    high: float
    chance_p_value: float
    distinguishable_from_chance: bool


def score_statistics(n_correct: int, n: int, chance: float) -> ScoreStatistics:
    """Statistics of n_correct of n answers where guessing gets a share of ``chance``.

    Wilson's interval without continuity correction (Wilson 1927), as llama-perplexity prints for
    HellaSwag. Against chance: the exact two-sided binomial test. Where the numbers of answers
    differ, guessing has a smaller variance than the binomial with the mean of 1/n, so the test is
    on the safe side: it rather calls a score chance.
    """
    from scipy.stats import binomtest

    interval = binomtest(n_correct, n).proportion_ci(CONFIDENCE, method="wilson")
    p_value = float(binomtest(n_correct, n, chance).pvalue)
    return ScoreStatistics(
        score=n_correct / n,
        low=float(interval.low),
        high=float(interval.high),
        chance_p_value=p_value,
        distinguishable_from_chance=p_value < 1 - CONFIDENCE,
    )


def mcnemar(here: Sequence[bool], there: Sequence[bool], other: str) -> McNemar:
    """McNemar's exact test (1947) of two models on the same items, about ``here``.

    Under "no difference" an item that only one of them answers correctly is either's with
    probability 1/2: the two-sided binomial test over those items.
    """
    from scipy.stats import binomtest

    only_here = sum(a and not b for a, b in zip(here, there, strict=True))
    only_there = sum(b and not a for a, b in zip(here, there, strict=True))
    n = only_here + only_there
    p_value = float(binomtest(only_here, n, 0.5).pvalue) if n else 1.0
    verdict = Verdict.NOT_DISTINGUISHABLE
    if p_value < 1 - CONFIDENCE:
        verdict = Verdict.BETTER if only_here > only_there else Verdict.WORSE
    return McNemar(other, only_here, only_there, p_value, verdict)


def compare_scores(
    scores: dict[str, tuple[TaskScore, ...]],
) -> dict[str, tuple[TaskScore, ...]]:
    """The scores with McNemar's tests of each model against every other on the same items."""
    return {
        name: tuple(_compared(name, score, scores) for score in own) for name, own in scores.items()
    }


def _compared(name: str, score: TaskScore, scores: dict[str, tuple[TaskScore, ...]]) -> TaskScore:
    if score.items is None:
        return score
    here = unpack_items(score.items, score.n)
    tests = (
        _valid(mcnemar(here, unpack_items(candidate.items, candidate.n), other), score, candidate)
        for other, theirs in scores.items()
        for candidate in theirs
        if other != name and candidate.items is not None and _same_items(score, candidate)
    )
    return replace(score, comparisons=tuple(tests))


def _valid(test: McNemar, first: TaskScore, second: TaskScore) -> McNemar:
    """No verdict where one of the two answered by logits that are not finite."""
    bad = first.n_not_finite or second.n_not_finite
    return replace(test, verdict=Verdict.INVALID) if bad else test


def _same_items(first: TaskScore, second: TaskScore) -> bool:
    keys = ("task", "n", "data_sha256", "selection", "compat")
    return all(getattr(first, key) == getattr(second, key) for key in keys)
