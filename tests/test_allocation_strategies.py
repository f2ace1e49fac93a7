"""Rules of thumb at one size: what they pin is pinned, and all spend the same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import apex_native as apex
from apex_native.allocation import (
    STRATEGIES,
    DomainText,
    Effort,
    SearchRequest,
    Strategy,
    TextSizes,
    rank_strategies,
)
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.strategies import strategy_types
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.errors import PlanError
from apex_native.imatrix import Importance
from apex_native.types import GgmlType, Role

BUDGET = 12_000_000


@pytest.fixture(scope="module")
def source() -> Iterator[apex.GgufFile]:
    with apex.open_gguf(apex.demo_model()) as opened:
        yield opened


def request(**changes: object) -> SearchRequest:
    settings = {
        "budgets": (BUDGET,), "texts": (DomainText("text", demo_text(9_000, seed=3)),), "ctx": 64,
        "effort": Effort(TextSizes(1, 1, 3)), "placement": Placement(n_threads=2),
    }  # fmt: skip
    return SearchRequest(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def space(source: apex.GgufFile) -> SearchSpace:
    matrix = Importance(apex.load_imatrix(apex.demo_imatrix()), source.facts)
    return SearchSpace.of(source, matrix.summary(), request())


def test_there_are_enough_of_them_and_names_are_unique() -> None:
    assert len(STRATEGIES) >= 25
    assert len({strategy.name for strategy in STRATEGIES}) == len(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_each_spends_the_same_bytes_and_keeps_its_pins(
    space: SearchSpace, strategy: Strategy
) -> None:

    try:
        types = strategy_types(space, strategy, BUDGET)
    except PlanError:
        assert strategy.name == "experts-Q6_K"  # experts alone are larger than the file
        return
    assert space.file_bytes(types) == space.plan(types).total_bytes <= BUDGET
    if strategy.name == "edges-3":
        assert space.file_bytes(types) > 0.97 * BUDGET
    roles = {tensor.name: tensor for tensor in space.classification.tensors}
    for name, chosen in types.items():
        pin = (strategy.pinned or {}).get(roles[name].role)
        if pin is not None and roles[name].info.n_per_row % 256 == 0:
            assert chosen is pin


def mean_bits(space: SearchSpace, name: str, layers: set[int], roles: set[Role]) -> float:
    strategy = next(strategy for strategy in STRATEGIES if strategy.name == name)
    types = strategy_types(space, strategy, BUDGET)
    chosen = [
        types[tensor.name].bpw
        for tensor in space.classification.tensors
        if tensor.layer in layers and tensor.role in roles and tensor.name in types
    ]
    return sum(chosen) / len(chosen)


def test_weights_move_bits_where_they_say(space: SearchSpace) -> None:
    experts = {Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN}
    assert mean_bits(space, "edges-5", {0, 7}, experts) > mean_bits(
        space, "edges-5", {2, 3, 4, 5}, experts
    )
    assert mean_bits(space, "front-heavy", {0, 1}, experts) > mean_bits(
        space, "front-heavy", {6, 7}, experts
    )
    assert mean_bits(space, "back-heavy", {0, 1}, experts) < mean_bits(
        space, "back-heavy", {6, 7}, experts
    )
    assert mean_bits(space, "down-above", set(range(8)), {Role.EXPERT_DOWN}) > mean_bits(
        space, "down-above", set(range(8)), {Role.EXPERT_UP}
    )


@pytest.mark.slow
def test_they_are_ranked_with_intervals(source: apex.GgufFile) -> None:
    matrix = apex.load_imatrix(apex.demo_imatrix())
    worst = {t.name: GgmlType.Q2_K for t in source.tensors if t.type is GgmlType.BF16}
    more = {"worst": ("two bits for all", worst, matrix)}
    (ranking,) = rank_strategies(source, request(), matrix, more=more)
    assert len(ranking.rows) + len(ranking.skipped) == len(STRATEGIES) + 1
    kld = [row.kld_mean for row in ranking.rows]
    assert kld == sorted(kld)
    assert ranking.rows[-1].name == "worst"
    assert ranking.rows[0].ratio is None
    assert all(row.ratio is not None and row.ratio.value >= 1 for row in ranking.rows[1:])
    ratio = ranking.ratio("uniform", "worst")
    assert ratio is not None
    assert ratio.value < 1
