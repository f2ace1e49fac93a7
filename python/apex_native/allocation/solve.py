"""From curves and a budget to types: knapsacks over all tensors, one for each weighing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.allocation.knapsack import Option, near_knapsack, solve_knapsack
from apex_native.allocation.surrogate import Errors, Surrogate
from apex_native.types import GgmlType

__all__ = ["SUM", "Link", "Problem", "Solution", "TensorCosts", "solve"]

Knapsack = Callable[[Sequence[Sequence[Option]], int, float | None], list[int]]

MOST_ROUNDS = 4
"""Linear problems of one budget: the multiplier settles in two or three."""


@dataclass(frozen=True, slots=True)
class Link:
    """How the units' parts make a whole: c_q Q + c_s sqrt(sum S^2) + c_l sum S, nats."""

    quadratic: float = 1.0
    root: float = 1.0
    linear: float = 0.0

    def __call__(self, q: float, s2: float, s: float = 0.0) -> float:
        """KLD of a whole whose units' parts are these."""
        return self.quadratic * q + self.root * float(np.sqrt(s2)) + self.linear * s


SUM = Link(1.0, 0.0, 1.0)
"""As if units did not interact."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to choose: types of every tensor (several may have to agree), bytes, limit.

    groups: tensors that get one type. nbytes are those a file needs, padding included. seconds and
    most_seconds: what a tensor adds to the time of a token, and what all may take.
    """

    groups: Sequence[tuple[str, ...]]
    choices: Mapping[str, Sequence[GgmlType]]
    nbytes: Callable[[str, GgmlType], int]
    limit: int
    seconds: Callable[[str, GgmlType], float] | None = None
    most_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """Types, their bytes, and the predicted KLD."""

    types: Mapping[str, GgmlType]
    nbytes: int
    predicted: float


class TensorCosts:
    """Predicted parts of every tensor and type."""

    def __init__(
        self,
        surrogate: Surrogate,
        errors: Errors,
        scale: Mapping[str, float] | None = None,
    ) -> None:
        """Scale multiplies a unit's parts: what measurements at an operating point said of it."""
        self._surrogate = surrogate
        self._errors = errors
        self._unit = surrogate.unit_of()
        self._scale = scale or {}

    def parts(self, name: str, type: GgmlType) -> tuple[float, float, float]:
        """A tensor's share of its unit's quadratic part, of its root part's square, and of that."""
        unit = self._unit.get(name)
        if unit is None:
            return 0.0, 0.0, 0.0
        curve = self._surrogate.curves[unit.name]
        factor = self._scale.get(unit.name, 1.0)
        error = self._errors(name, type)
        share = self._surrogate.weights.get(name, 1.0) / len(unit.tensors)
        root = factor * curve.root(error)
        return factor * curve.quadratic(error) * share, root**2 * share, root * share

    def totals(self, types: Mapping[str, GgmlType]) -> tuple[float, float, float]:
        """Q, the sum of S^2 and that of S of a choice."""
        parts = [self.parts(name, type) for name, type in types.items()]
        q, s2, s = (sum(column) for column in zip(*parts, strict=True))
        return q, s2, s

    def additive(self, name: str, type: GgmlType) -> float:
        """A tensor's share of its unit's KLD as if units did not interact."""
        q, _, s = self.parts(name, type)
        return q + s


def solve(problem: Problem, costs: TensorCosts, link: Link, *, exact: bool = True) -> Solution:
    """The least predicted KLD within the limit; PlanError where nothing fits."""
    return solutions(problem, costs, link, exact=exact)[0]


def solutions(
    problem: Problem, costs: TensorCosts, link: Link, *, exact: bool = True
) -> list[Solution]:
    """The optimum under the link and what was met on the way to it, the best prediction first.

    The square root is concave, so the optimum is that of a linear problem Q + m S2 with m the
    slope of the root there, 1 / (2 sqrt(S2)): from the plain sum's solution on, each gives the
    next one's slope, and none is worse than the one before. exact: the last one is solved exactly,
    the ones on the way only nearly.
    """
    found: dict[tuple[GgmlType, ...], Solution] = {}
    slope: float | None = None
    for _ in range(MOST_ROUNDS if link.root > 0 else 1):
        types = _solve_one(problem, costs, link, slope, near_knapsack)
        if not _keep(found, problem, costs, link, types):
            break
        _, s2, _ = costs.totals(types)
        if s2 <= 0 or link.root <= 0:
            break
        slope = 0.5 / float(np.sqrt(s2))
    if exact:
        types = _solve_one(problem, costs, link, slope, solve_knapsack)
        _keep(found, problem, costs, link, types)
    return sorted(found.values(), key=lambda solution: solution.predicted)


def _keep(
    found: dict[tuple[GgmlType, ...], Solution],
    problem: Problem,
    costs: TensorCosts,
    link: Link,
    types: Mapping[str, GgmlType],
) -> bool:
    """Whether it is new."""
    key = tuple(types.values())
    if key in found:
        return False
    nbytes = sum(problem.nbytes(name, type) for name, type in types.items())
    found[key] = Solution(types, nbytes, link(*costs.totals(types)))
    return True


def _solve_one(
    problem: Problem, costs: TensorCosts, link: Link, slope: float | None, knapsack: Knapsack
) -> dict[str, GgmlType]:
    items, options = [], []
    for group in problem.groups:
        types = [
            t for t in problem.choices[group[0]] if all(t in problem.choices[n] for n in group)
        ]
        row = []
        for type in types:
            cost = sum(_cost(costs, link, slope, name, type) for name in group)
            nbytes = sum(problem.nbytes(name, type) for name in group)
            row.append(Option(nbytes, cost, _seconds(problem, group, type)))
        items.append(row)
        options.append(types)
    chosen = knapsack(items, problem.limit, problem.most_seconds)
    return {
        name: types[i]
        for group, types, i in zip(problem.groups, options, chosen, strict=True)
        for name in group
    }


def _seconds(problem: Problem, group: Sequence[str], type: GgmlType) -> float:
    if problem.seconds is None:
        return 0.0
    return sum(problem.seconds(name, type) for name in group)


def _cost(costs: TensorCosts, link: Link, slope: float | None, name: str, type: GgmlType) -> float:
    q, s2, s = costs.parts(name, type)
    if slope is None:
        # The linear problem itself, or where the way to the root's optimum begins.
        return link.quadratic * q + link.linear * s if link.root <= 0 else q + s
    return link.quadratic * q + link.linear * s + link.root * slope * s2
