"""The knapsack against brute force, and against what HiGHS does that nobody asked for."""

from __future__ import annotations

import ctypes
import itertools
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from apex_native.allocation.knapsack import Option, near_knapsack, seconds_of, solve_knapsack
from apex_native.errors import PlanError


def random_items(rng: np.random.Generator, n_items: int, unit: int) -> list[list[Option]]:
    """Larger options cost less, mostly."""
    items = []
    for _ in range(n_items):
        nbytes = np.sort(rng.integers(1, 1000, size=4))[::-1] * unit
        cost = np.sort(rng.random(4)) * rng.random()
        items.append([Option(int(b), float(c)) for b, c in zip(nbytes, cost, strict=True)])
    return items


def total(items: list[list[Option]], chosen: list[int]) -> tuple[int, float]:
    options = [options[i] for options, i in zip(items, chosen, strict=True)]
    return sum(o.nbytes for o in options), sum(o.cost for o in options)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = random_items(rng, 6, 32)
    smallest = sum(min(o.nbytes for o in options) for options in items)
    largest = sum(max(o.nbytes for o in options) for options in items)
    for share in (0.0, 0.1, 0.4, 0.8, 1.0):
        limit = smallest + int(share * (largest - smallest))
        fitting = [
            total(items, list(chosen))
            for chosen in itertools.product(range(4), repeat=6)
            if total(items, list(chosen))[0] <= limit
        ]
        nbytes, cost = total(items, solve_knapsack(items, limit))
        assert nbytes <= limit
        assert cost == pytest.approx(min(cost for _, cost in fitting), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_two_limits_are_both_kept_and_nothing_better_is_missed(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    items = [
        [Option(o.nbytes, o.cost, float(rng.random())) for o in options]
        for options in random_items(rng, 6, 32)
    ]
    every = [list(chosen) for chosen in itertools.product(range(4), repeat=6)]
    limit = int(np.quantile([total(items, chosen)[0] for chosen in every], 0.6))
    small = [chosen for chosen in every if total(items, chosen)[0] <= limit]
    fastest = min(seconds_of(items, chosen) for chosen in small)
    for factor in (1.02, 1.3, 2.0):
        most = factor * fastest
        best = min(total(items, c)[1] for c in small if seconds_of(items, c) <= most)
        found = solve_knapsack(items, limit, most)
        near = near_knapsack(items, limit, most)
        for chosen in (found, near):
            assert total(items, chosen)[0] <= limit
            assert seconds_of(items, chosen) <= most * (1 + 1e-6)
        assert total(items, found)[1] == pytest.approx(best, rel=1e-5)
        assert total(items, near)[1] >= best * (1 - 1e-5)
    with pytest.raises(PlanError, match=r"the fastest choice within [\d,]+ bytes takes"):
        near_knapsack(items, limit, 0.5 * fastest)


def test_a_limit_of_many_gigabytes_is_kept_to_the_byte() -> None:
    rng = np.random.default_rng(3)
    items = random_items(rng, 120, 1_000_003)
    for limit in (30_000_000_001, 45_000_000_000, 60_000_000_007):
        nbytes, _ = total(items, solve_knapsack(items, limit))
        assert nbytes <= limit
        assert nbytes > 0.99 * limit


def test_what_does_not_fit_is_said_with_the_numbers() -> None:
    items = [[Option(10, 1.0), Option(20, 0.0)]] * 3
    with pytest.raises(PlanError, match=r"30 bytes.*29 are allowed"):
        solve_knapsack(items, 29)
    assert solve_knapsack(items, 30) == [0, 0, 0]
    assert solve_knapsack([], 0) == []


def test_an_option_that_is_larger_and_worse_is_never_taken() -> None:
    items = [[Option(10, 0.5), Option(20, 0.7), Option(30, 0.1)]] * 2
    assert 1 not in solve_knapsack(items, 60)


def test_a_choice_over_the_limit_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    # HiGHS' feasibility is relative: what it calls feasible may be some bytes over.
    items = [[Option(100, 0.0), Option(60, 1.0), Option(10, 2.0)] for _ in range(4)]
    solve, calls = scipy.optimize.milp, []

    def careless(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:  # the most precise option of every item: far over
            return SimpleNamespace(x=np.array([1.0, 0.0, 0.0] * 4))
        return solve(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", careless)
    nbytes, _ = total(items, solve_knapsack(items, 250))
    assert nbytes <= 250
    assert len(calls) > 1


def test_without_any_help_from_highs_there_is_still_a_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = [[Option(100, 0.0), Option(60, 1.0), Option(10, 2.0)] for _ in range(4)]
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_, **__: SimpleNamespace(x=None))
    nbytes, cost = total(items, solve_knapsack(items, 250))
    assert nbytes <= 250
    assert cost < 8.0


def test_nothing_reaches_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # scipy 1.17.1 prints from native code on some problems although disp is off.
    solve = scipy.optimize.milp
    libc = ctypes.CDLL(None)

    def talkative(*args: Any, **kwargs: Any) -> Any:
        libc.printf(b"HiGHS says something from a buffer of the C library\n")
        os.write(1, b"and something at once\n")
        return solve(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", talkative)
    solve_knapsack([[Option(10, 1.0), Option(20, 0.0)]] * 3, 50)
    libc.fflush(None)
    assert capfd.readouterr().out == ""
    os.write(1, b"the descriptor is back\n")
    assert capfd.readouterr().out == "the descriptor is back\n"


def test_real_problems_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(6):
        items = random_items(np.random.default_rng(seed), 40, 7919)
        smallest = sum(min(o.nbytes for o in options) for options in items)
        solve_knapsack(items, int(smallest * 1.7))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("seed", range(5))
def test_the_near_choice_is_near(seed: int) -> None:
    items = random_items(np.random.default_rng(seed), 60, 4096)
    smallest = sum(min(o.nbytes for o in options) for options in items)
    for factor in (1.0, 1.3, 2.0, 3.0):
        limit = int(smallest * factor)
        near_bytes, near_cost = total(items, near_knapsack(items, limit))
        _, cost = total(items, solve_knapsack(items, limit))
        assert near_bytes <= limit
        # One item's step among sixty at most.
        assert cost * (1 - 1e-5) <= near_cost <= 1.05 * cost
