"""Predicted speed: weights a token passes, counted apart; calibration; goals; the surface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import apex_native as apex
from apex_native.allocation import DomainText, SearchRequest, Speed
from apex_native.allocation.solve import Link, TensorCosts, solve
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.speed import (
    KernelCosts,
    SpeedModel,
    active_weights,
    measure_costs,
    parse_min_speed,
)
from apex_native.allocation.speed_goal import SpeedGoal, surface
from apex_native.allocation.surrogate import Curve, Surrogate
from apex_native.engine import Placement
from apex_native.errors import PlanError
from apex_native.imatrix import Importance
from apex_native.types import GgmlType

T = GgmlType
BUDGET = 10_000_000

SECONDS = {
    T.BF16: 4e-9, T.Q8_0: 2e-9, T.Q6_K: 1.6e-9, T.Q5_K: 1.4e-9, T.Q4_K: 1e-9, T.IQ4_XS: 1.3e-9,
    T.Q3_K: 1.2e-9, T.IQ3_S: 3e-9, T.IQ3_XXS: 2.8e-9, T.Q2_K: 0.9e-9, T.IQ2_S: 3.2e-9,
    T.IQ2_XS: 3e-9, T.IQ2_XXS: 2.9e-9,
}  # fmt: skip
"""Small types are not always fast ones."""


@pytest.fixture(scope="module")
def source() -> Iterator[apex.GgufFile]:
    with apex.open_gguf(apex.demo_model()) as opened:
        yield opened


@pytest.fixture(scope="module")
def space(source: apex.GgufFile) -> SearchSpace:
    matrix = Importance(apex.load_imatrix(apex.demo_imatrix()), source.facts)
    request = SearchRequest((BUDGET,), (DomainText("none", ""),))
    return SearchSpace.of(source, matrix.summary(), request)


@pytest.fixture(scope="module")
def model(space: SearchSpace) -> SpeedModel:
    active = active_weights(space.classification, 2)
    return SpeedModel({name: active[name] for name in space.choices}, KernelCosts(SECONDS, SECONDS))


@pytest.fixture(scope="module")
def costs(space: SearchSpace) -> TensorCosts:
    """Every unit alike, errors as a quarter for each bit."""
    surrogate = Surrogate({unit.name: Curve(1.0, 0.0) for unit in space.units}, space.units, 0.0)

    def error(name: str, type: GgmlType) -> float:
        return 0.0 if type is space.infos[name].type else 4.0**-type.bpw

    return TensorCosts(surrogate, error)


def test_a_token_passes_two_of_eight_experts_and_one_row_of_the_embedding(
    source: apex.GgufFile, space: SearchSpace
) -> None:
    active = active_weights(space.classification, 2)
    for tensor in source.tensors:
        whole = float(tensor.n_elements)
        if "_exps" in tensor.name:
            assert active[tensor.name] == whole / 4
        elif tensor.name == "token_embd.weight":
            assert active[tensor.name] == tensor.shape[-1]
        else:
            assert active[tensor.name] == whole


def test_a_calibrated_model_predicts_what_was_measured(
    space: SearchSpace, model: SpeedModel
) -> None:
    types = space.fixed_plan(ftype="Q4_K_M").types
    plain = model.predict(types)
    for factor in (0.4, 3.0):  # slower than its products: fixed time; faster: cheaper products
        measured = Speed(factor * plain.generate, factor * plain.prompt)
        found = model.calibrated(types, measured).predict(types)
        assert found.generate == pytest.approx(measured.generate)
        assert found.prompt == pytest.approx(measured.prompt)
    slower = model.calibrated(types, Speed(0.5 * plain.generate, plain.prompt))
    assert slower.fixed_generate == pytest.approx(1 / plain.generate)


def test_a_goal_is_met_and_costs_something(
    space: SearchSpace, model: SpeedModel, costs: TensorCosts
) -> None:
    problem = space.problem(BUDGET)
    free = solve(problem, costs, Link())
    speed = model.predict(free.types).generate
    goal = SpeedGoal(model, "Q4_K_M", Speed(speed, 1.0), None)
    wanted = 1.1 * speed
    found = solve(goal.problem(problem, wanted), costs, Link())
    assert model.predict(found.types).generate >= wanted * (1 - 1e-6)
    assert space.file_bytes(found.types) <= BUDGET
    assert found.predicted > free.predicted
    with pytest.raises(PlanError, match=r"tokens/s are asked for; the fastest choice of this size"):
        goal.problem(problem, 100 * speed)


def test_the_surface_falls_in_both_directions(
    space: SearchSpace, model: SpeedModel, costs: TensorCosts
) -> None:
    goal = SpeedGoal(model, "Q4_K_M", Speed(1.0, 1.0), None)
    budgets = (8_000_000, BUDGET, 12_000_000)
    points = surface(space, goal, budgets, costs, Link())
    for budget in budgets:
        line = [point for point in points if point.budget == budget]
        assert all(point.nbytes <= budget for point in line)
        speeds = [point.speed.generate for point in line]
        assert speeds[-1] > speeds[0]
        assert line[-1].kld > line[0].kld
    firsts = [next(p for p in points if p.budget == budget) for budget in budgets]
    assert firsts[0].kld > firsts[1].kld > firsts[2].kld
    for point in points:
        better = [
            o for o in points if o.kld < point.kld and o.nbytes <= point.nbytes
            and o.speed.generate >= point.speed.generate
        ]  # fmt: skip
        assert point.dominated == bool(better)


def test_kernels_are_measured_for_every_type_asked_for() -> None:
    costs = measure_costs((T.Q8_0, T.Q4_K), Placement(n_threads=1))
    for table in (costs.generate, costs.prompt):
        assert set(table) == {T.Q8_0, T.Q4_K}
        assert all(1e-13 < seconds < 1e-6 for seconds in table.values())


def test_least_speeds_are_read() -> None:
    half = parse_min_speed("1.5x:Q4_K_M")
    assert (half.factor, half.recipe) == (1.5, "Q4_K_M")
    assert half.tokens_per_s({"Q4_K_M": 20.0}.__getitem__) == 30.0
    assert parse_min_speed("35").tokens_per_s({}.__getitem__) == 35.0
    for wrong in ("", "x", "1.1:Q4_K_M", "0", "-3", "1.1x:", "nan"):
        with pytest.raises(PlanError, match="expected tokens per second"):
            parse_min_speed(wrong)
