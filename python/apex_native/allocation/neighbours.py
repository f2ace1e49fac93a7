"""Choices near a known one: a recipe made to fit a budget, a solution with bytes exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from apex_native.allocation.solve import Link, Problem, Solution, TensorCosts, solve
from apex_native.errors import PlanError
from apex_native.types import GgmlType

__all__ = ["adapted", "exchanged"]

Types = Mapping[str, GgmlType]
_Keep = Callable[[Sequence[int], int], Sequence[int]]
"""From the bytes of a group's options, rising, and those it has now: which options stay."""


def adapted(problem: Problem, costs: TensorCosts, link: Link, types: Types) -> Solution | None:
    """A known choice made to fit: what is left goes to some tensors, or some give what is missing.

    No tensor gets less where the choice fits, none more where it does not. types: of every tensor,
    allowed ones or not. None where no such choice meets the limits.
    """
    for keep in (_no_smaller, _no_larger):
        found = _solved(_restricted(problem, types, keep), costs, link, exact=False)
        if found is not None:
            return found
    return None


def exchanged(problem: Problem, costs: TensorCosts, link: Link, types: Types) -> Solution | None:
    """The best predicted choice in which no tensor is more than one type away from types."""
    return _solved(_restricted(problem, types, _one_step), costs, link, exact=True)


def _solved(problem: Problem, costs: TensorCosts, link: Link, *, exact: bool) -> Solution | None:
    try:
        return solve(problem, costs, link, exact=exact)
    except PlanError:
        return None


def _restricted(problem: Problem, types: Types, keep: _Keep) -> Problem:
    choices = dict(problem.choices)
    for group in problem.groups:
        common = [
            t for t in problem.choices[group[0]] if all(t in problem.choices[n] for n in group)
        ]
        sizes = {t: sum(problem.nbytes(name, t) for name in group) for t in common}
        rising = sorted(common, key=lambda t: sizes[t])
        now = sum(problem.nbytes(name, types[name]) for name in group)
        kept = keep([sizes[t] for t in rising], now)
        choices.update(dict.fromkeys(group, tuple(rising[i] for i in kept)))
    return replace(problem, choices=choices)


def _no_smaller(sizes: Sequence[int], now: int) -> Sequence[int]:
    return [i for i, size in enumerate(sizes) if size >= now] or [len(sizes) - 1]


def _no_larger(sizes: Sequence[int], now: int) -> Sequence[int]:
    return [i for i, size in enumerate(sizes) if size <= now] or [0]


def _one_step(sizes: Sequence[int], now: int) -> Sequence[int]:
    at = min(range(len(sizes)), key=lambda i: abs(sizes[i] - now))
    return range(max(0, at - 1), min(len(sizes), at + 2))
