"""Intervals and tests against their formulas, written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from apex_native.evaluation.tasks import compare_scores, mcnemar, score_statistics
from apex_native.evaluation.tasks.items import ChoiceItem, chance_level, single_correct
from apex_native.results import TaskScore, Verdict, pack_items

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def two_sided(k: int, n: int, p: float) -> float:
    """Probability of all outcomes that are as improbable as k."""
    limit = binomial(k, n, p) * (1 + 1e-7)
    return min(1.0, sum(q for i in range(n + 1) if (q := binomial(i, n, p)) <= limit))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 1), (106, 220), (321, 400)])
def test_wilsons_interval(k: int, n: int) -> None:
    found = score_statistics(k, n, 0.25)
    p = k / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    assert found.score == p
    assert found.low == pytest.approx(middle - half, abs=1e-12)
    assert found.high == pytest.approx(middle + half, abs=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "chance"), [(60, 200, 0.25), (61, 200, 0.25), (63, 200, 0.25), (30, 200, 0.25)]
)
def test_chance_is_ruled_out_by_the_exact_test(k: int, n: int, chance: float) -> None:
    found = score_statistics(k, n, chance)
    assert found.chance_p_value == pytest.approx(two_sided(k, n, chance), rel=1e-9)
    assert found.distinguishable_from_chance == (two_sided(k, n, chance) < 0.05)


def test_both_sides_of_chance_are_something() -> None:
    assert not score_statistics(50, 200, 0.25).distinguishable_from_chance
    assert score_statistics(80, 200, 0.25).distinguishable_from_chance
    assert score_statistics(25, 200, 0.25).distinguishable_from_chance


def test_chance_of_unequal_numbers_of_answers() -> None:
    items = [ChoiceItem("c", ("a",) * n, single_correct(0, n), "place") for n in (2, 2, 4, 5)]
    assert chance_level(items) == pytest.approx((0.5 + 0.5 + 0.25 + 0.2) / 4)
    two_are_right = ChoiceItem("c", ("a",) * 4, (True, True, False, False), "place")
    assert chance_level([two_are_right]) == 0.5


def test_mcnemar_counts_what_only_one_knows() -> None:
    here = [True] * 12 + [False] * 2 + [True] * 50 + [False] * 36
    there = [False] * 12 + [True] * 2 + [True] * 50 + [False] * 36
    test = mcnemar(here, there, "other")
    assert (test.n_only_here, test.n_only_there) == (12, 2)
    assert test.p_value == pytest.approx(two_sided(2, 14, 0.5), rel=1e-9)
    assert test.verdict is Verdict.BETTER
    assert mcnemar(there, here, "other").verdict is Verdict.WORSE


@pytest.mark.parametrize("n_only_one", [0, 1, 5])
def test_mcnemar_does_not_claim_what_it_cannot_know(n_only_one: int) -> None:
    here = [True] * n_only_one + [True] * 100
    there = [False] * n_only_one + [True] * 100
    test = mcnemar(here, there, "other")
    assert test.verdict is Verdict.NOT_DISTINGUISHABLE
    assert test.p_value >= 0.05


def task_score(correct: list[bool], task: str = "arc", selection: str = "all") -> TaskScore:
    found = score_statistics(sum(correct), len(correct), 0.25)
    return TaskScore(
        task=task,
        n=len(correct),
        score=found.score,
        low=found.low,
        high=found.high,
        chance=0.25,
        distinguishable_from_chance=found.distinguishable_from_chance,
        selection=selection,
        items=pack_items(correct),
    )


def test_models_are_compared_on_the_same_items_only() -> None:
    good, bad = task_score([True] * 40), task_score([False] * 20 + [True] * 20)
    scores = {
        "good": (good,),
        "bad": (bad, task_score([True] * 40, task="other")),
        "elsewhere": (replace(good, selection="400 of 900"),),
        "without": (replace(good, items=None),),
    }
    compared = compare_scores(scores)
    (test,) = compared["good"][0].comparisons
    assert (test.other, test.verdict, test.n_only_here) == ("bad", Verdict.BETTER, 20)
    assert compared["bad"][0].comparisons[0].verdict is Verdict.WORSE
    assert compared["bad"][1].comparisons == ()
    assert compared["elsewhere"][0].comparisons == ()
    assert compared["without"][0].comparisons == ()
