"""Choices near a known one: brute force over small problems says which there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from apex_native.allocation.neighbours import adapted, exchanged
from apex_native.allocation.solve import SUM, Problem, TensorCosts
from apex_native.allocation.surrogate import Curve, Surrogate
from apex_native.allocation.units import Unit
from apex_native.types import GgmlType

T = GgmlType
LADDER = (T.Q8_0, T.Q6_K, T.Q5_K, T.Q4_K, T.Q3_K)
ERRORS = {T.Q8_0: 0.00003, T.Q6_K: 0.0003, T.Q5_K: 0.001, T.Q4_K: 0.005, T.Q3_K: 0.02}
WEIGHTS = {"a": 1024, "b": 2048, "c": 4096, "d": 1024}
SEEDS = range(4)

Types = Mapping[str, GgmlType]


def nbytes(name: str, type: GgmlType) -> int:
    return type.tensor_bytes((WEIGHTS[name] // 256, 256))


def size(types: Types) -> int:
    return sum(nbytes(name, type) for name, type in types.items())


def problem(limit: int, groups: tuple[tuple[str, ...], ...] | None = None) -> Problem:
    each = groups or tuple((name,) for name in WEIGHTS)
    return Problem(each, dict.fromkeys(WEIGHTS, LADDER), nbytes, limit)


def costs(seed: int) -> TensorCosts:
    rng = np.random.default_rng(seed)
    units = [Unit(name, "down", 0, (name,)) for name in WEIGHTS]
    curves = {name: Curve(*map(float, rng.random(2))) for name in WEIGHTS}
    return TensorCosts(Surrogate(curves, units, 0.0), lambda _, t: ERRORS[t])


def cost(of: TensorCosts, types: Types) -> float:
    return SUM(*of.totals(types))


def every_choice() -> Iterator[dict[str, GgmlType]]:
    for types in itertools.product(LADDER, repeat=len(WEIGHTS)):
        yield dict(zip(WEIGHTS, types, strict=True))


def step(type: GgmlType) -> int:
    return LADDER.index(type)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exchange_is_the_best_choice_one_type_away(seed: int) -> None:
    start = dict(zip(WEIGHTS, np.random.default_rng(seed).choice(len(LADDER), 4), strict=True))
    types = {name: LADDER[i] for name, i in start.items()}
    limit = size(types)
    found = exchanged(problem(limit), costs(seed), SUM, types)
    assert found is not None
    assert size(found.types) == found.nbytes <= limit
    close = [
        cost(costs(seed), other)
        for other in every_choice()
        if size(other) <= limit and all(abs(step(other[n]) - step(types[n])) <= 1 for n in types)
    ]
    assert cost(costs(seed), found.types) == pytest.approx(min(close), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_choice_that_fits_only_gains(seed: int) -> None:
    types = {"a": T.Q4_K, "b": T.Q5_K, "c": T.Q4_K, "d": T.Q3_K}
    limit = size(types) + 700
    found = adapted(problem(limit), costs(seed), SUM, types)
    assert found is not None
    assert found.nbytes <= limit
    assert all(step(found.types[name]) <= step(types[name]) for name in types)
    # No tensor could have one type more.
    for name, type in found.types.items():
        if type is not LADDER[0]:
            more = {**found.types, name: LADDER[step(type) - 1]}
            assert size(more) > limit


@pytest.mark.parametrize("seed", SEEDS)
def test_a_choice_that_is_too_large_only_gives(seed: int) -> None:
    types = {"a": T.Q4_K, "b": T.Q5_K, "c": T.Q4_K, "d": T.Q3_K}
    limit = size(types) - 64
    found = adapted(problem(limit), costs(seed), SUM, types)
    assert found is not None
    assert found.nbytes <= limit
    assert all(step(found.types[name]) >= step(types[name]) for name in types)
    # Nothing that was given could have stayed.
    for name, type in found.types.items():
        if type is not types[name]:
            assert size({**found.types, name: LADDER[step(type) - 1]}) > limit


def test_types_the_search_may_not_use_become_the_nearest_it_may() -> None:
    types = dict.fromkeys(WEIGHTS, T.IQ4_NL)
    found = adapted(problem(size(types)), costs(0), SUM, types)
    assert found is not None
    assert set(found.types.values()) == {T.Q4_K}
    larger = dict.fromkeys(WEIGHTS, T.Q5_1)
    found = adapted(problem(size(larger)), costs(0), SUM, larger)
    assert found is not None
    assert found.nbytes <= size(larger)


def test_tensors_that_share_a_type_keep_sharing_it() -> None:
    types = {"a": T.Q8_0, "b": T.Q4_K, "c": T.Q4_K, "d": T.Q4_K}
    groups = (("a", "b"), ("c",), ("d",))
    for found in (
        adapted(problem(size(types), groups), costs(1), SUM, types),
        exchanged(problem(size(types), groups), costs(1), SUM, types),
    ):
        assert found is not None
        assert found.types["a"] is found.types["b"]
        assert found.nbytes <= size(types)


def test_a_limit_nothing_near_meets_gives_nothing() -> None:
    types = dict.fromkeys(WEIGHTS, T.Q8_0)
    far = problem(size(dict.fromkeys(WEIGHTS, T.Q3_K)))
    assert exchanged(far, costs(0), SUM, types) is None
    # Made to fit, it may give as much as it takes.
    found = adapted(far, costs(0), SUM, types)
    assert found is not None
    assert set(found.types.values()) == {T.Q3_K}
