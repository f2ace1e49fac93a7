"""A speed that a result must have, and the surface of size, KLD and speed that can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apex_native.allocation.knapsack import Option, near_knapsack, seconds_of
from apex_native.allocation.solve import Link, Problem, TensorCosts, solve
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.speed import (
    Speed,
    SpeedModel,
    active_weights,
    measure_costs,
    measure_plan,
    parse_min_speed,
)
from apex_native.errors import PlanError
from apex_native.imatrix import Imatrix
from apex_native.plan import Plan, is_tier_name

__all__ = ["CALIBRATOR", "SpeedGoal", "SurfacePoint", "speed_goal", "surface"]

CALIBRATOR = "Q4_K_M"
"""The fixed recipe whose speed is measured where the goal names none."""

LEVELS = 8
"""Speeds of each size on the surface."""


@dataclass(frozen=True, slots=True)
class SpeedGoal:
    """How speed is predicted, and what is asked for; least is tokens per second or None."""

    model: SpeedModel
    calibrator: str
    measured: Speed
    least: float | None

    def problem(self, problem: Problem, least: float | None = None) -> Problem:
        """The same problem for results that are fast enough; PlanError where none is.

        least: tokens per second, default the goal's.
        """
        wanted = self.least if least is None else least
        timed = replace(problem, seconds=self.model.seconds)
        if wanted is None:
            return timed
        room = 1.0 / wanted - self.model.fixed_generate
        fastest = least_seconds(timed)
        if fastest > room:
            best = 1.0 / (self.model.fixed_generate + fastest)
            raise PlanError(
                f"{wanted:.1f} tokens/s are asked for; the fastest choice of this size is "
                f"predicted to generate {best:.1f} (what no type changes takes "
                f"{1e3 * self.model.fixed_generate:.2f} ms a token)"
            )
        return replace(timed, most_seconds=room)


def least_seconds(problem: Problem) -> float:
    """Of the fastest choice within the size."""
    items = _timed_items(problem)
    return seconds_of(items, near_knapsack(items, problem.limit))


def _timed_items(problem: Problem) -> list[list[Option]]:
    seconds = problem.seconds
    assert seconds is not None
    items = []
    for group in problem.groups:
        row = []
        for type in problem.choices[group[0]]:
            if all(type in problem.choices[name] for name in group):
                time = sum(seconds(name, type) for name in group)
                row.append(Option(sum(problem.nbytes(n, type) for n in group), time, time))
        items.append(row)
    return items


def speed_goal(space: SearchSpace, imatrix: Imatrix | None) -> SpeedGoal | None:
    """Measure kernels and one fixed recipe; None where the request asks nothing of speed.

    Raises PlanError for a goal that cannot be read or a recipe that does not exist.
    """
    request = space.request
    if request.min_tg is None and not request.surface:
        return None
    asked = None if request.min_tg is None else parse_min_speed(request.min_tg)
    name = CALIBRATOR if asked is None or asked.recipe is None else asked.recipe
    plan = _recipe(space, name)
    types = sorted({t for types in space.choices.values() for t in types}, key=lambda t: -t.bpw)
    every = active_weights(space.classification, _n_used(space))
    active = {name: every[name] for name in space.choices}
    measured = measure_plan(space.source, {name: (plan, imatrix)}, request.placement)[name]
    model = SpeedModel(active, measure_costs(types, request.placement))
    model = model.calibrated(plan.types, measured)
    least = None if asked is None else asked.tokens_per_s(lambda _: measured.generate)
    return SpeedGoal(model, name, measured, least)


def _n_used(space: SearchSpace) -> int:
    """Experts a token goes to; where layers differ, the most."""
    facts = space.source.facts
    value = facts.metadata.get(f"{facts.architecture}.expert_used_count", 0)
    values = value if isinstance(value, tuple) else (value,)
    return max(int(v) for v in values if isinstance(v, int | float))


def _recipe(space: SearchSpace, name: str) -> Plan:
    if is_tier_name(name):
        return space.fixed_plan(tier=name)
    return space.fixed_plan(ftype=name)


@dataclass(frozen=True, slots=True)
class SurfacePoint:
    """A choice that could be made: predictions, nothing of it was measured.

    dominated: another one is not larger, not slower and has a lower KLD.
    """

    budget: int
    nbytes: int
    kld: float
    speed: Speed
    dominated: bool = False


def surface(
    space: SearchSpace,
    goal: SpeedGoal,
    budgets: Sequence[int],
    costs: TensorCosts,
    link: Link,
) -> list[SurfacePoint]:
    """For each size, from the least KLD to the fastest, in equal steps of time."""
    points = []
    for budget in budgets:
        problem = replace(space.problem(budget), seconds=goal.model.seconds)
        slowest = _solved(space, goal, problem, budget, costs, link)
        fixed = goal.model.fixed_generate
        most, least = 1.0 / slowest.speed.generate - fixed, least_seconds(problem)
        points.append(slowest)
        for room in np.linspace(most, least, LEVELS)[1:]:
            timed = replace(problem, most_seconds=float(room) * (1 + 1e-9))
            points.append(_solved(space, goal, timed, budget, costs, link))
    return [replace(point, dominated=_is_dominated(point, points)) for point in points]


def _solved(
    space: SearchSpace,
    goal: SpeedGoal,
    problem: Problem,
    budget: int,
    costs: TensorCosts,
    link: Link,
) -> SurfacePoint:
    found = solve(problem, costs, link, exact=False)
    speed = goal.model.predict(found.types)
    return SurfacePoint(budget, space.file_bytes(found.types), found.predicted, speed)


def _is_dominated(point: SurfacePoint, points: Sequence[SurfacePoint]) -> bool:
    return any(
        other.kld < point.kld
        and other.nbytes <= point.nbytes
        and other.speed.generate >= point.speed.generate
        for other in points
    )
