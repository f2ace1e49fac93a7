"""The multiple-choice knapsack, exact to the byte: one option per item, the least cost in a limit.

A second limit, on seconds, may be set beside the first.

HiGHS (through scipy) finds the optimum in floating point. Two things it does are made good here,
both seen with scipy 1.17.1: it may write to the process's standard output although it was told not
to, and a choice it calls feasible may be over the limit by some bytes, since its tolerance is
relative. The first is caught where it appears, below Python; the second is added up and repaired in
integers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from apex_native.errors import PlanError

__all__ = ["Option", "near_knapsack", "seconds_of", "solve_knapsack"]

TIME_LIMIT_S = 20.0
EXACT = 1e-6
"""HiGHS' relative gap that counts as none: below the rounding of the costs themselves."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to decide an item: what it weighs (bytes), costs and takes (both not negative)."""

    nbytes: int
    cost: float
    seconds: float = 0.0


def solve_knapsack(
    items: Sequence[Sequence[Option]], limit: int, most_seconds: float | None = None
) -> list[int]:
    """For each item the number of its option: the least total cost within limit bytes.

    Exact but for HiGHS' relative gap of 1e-6, and always within the limit: where its choice is over
    once added up in integers, the problem is solved again with so much less room. most_seconds
    limits the sum of the options' seconds, to a part in 10^6. Raises PlanError where even the
    smallest options do not fit, or none that fit are fast enough.
    """
    _require_possible(items, limit)
    if not items:
        return []
    pruned = [_undominated(options, timed=most_seconds is not None) for options in items]
    room = limit
    for _ in range(_MOST_REPAIRS):
        chosen = _solve(items, pruned, room, most_seconds)
        if chosen is None:
            break
        over = _bytes_of(items, chosen) - limit
        if over <= 0:
            return chosen
        room -= over
    return near_knapsack(items, limit, most_seconds)


def near_knapsack(
    items: Sequence[Sequence[Option]], limit: int, most_seconds: float | None = None
) -> list[int]:
    """Nearly the best choice, in a millisecond: within one item's step of the optimum.

    The steps along every item's lower convex hull, the best gain for its bytes first, as far as
    they fit; what is left is filled greedily. most_seconds is met by a price on seconds, found by
    bisection. Raises PlanError as `solve_knapsack`.
    """
    _require_possible(items, limit)
    chosen = _near(items, limit)
    if most_seconds is None or seconds_of(items, chosen) <= most_seconds:
        return chosen
    return _fast_enough(items, limit, most_seconds)


def seconds_of(items: Sequence[Sequence[Option]], chosen: Sequence[int]) -> float:
    """What a choice takes."""
    return sum(options[i].seconds for options, i in zip(items, chosen, strict=True))


def _fast_enough(items: Sequence[Sequence[Option]], limit: int, most_seconds: float) -> list[int]:
    """The choice at the lowest price of a second that meets the limit."""
    fastest = _near([[Option(o.nbytes, o.seconds) for o in options] for options in items], limit)
    least = seconds_of(items, fastest)
    if least > most_seconds:
        raise PlanError(
            f"the fastest choice within {limit:,} bytes takes {least:.3g} s a token, "
            f"{most_seconds:.3g} s are allowed"
        )
    costs = sum(max(option.cost for option in options) for options in items)
    low, high = 0.0, max(costs, 1e-300) / most_seconds
    best = fastest
    for _ in range(_PRICES):
        price = 0.5 * (low + high)
        priced = [[Option(o.nbytes, o.cost + price * o.seconds) for o in row] for row in items]
        chosen = _near(priced, limit)
        if seconds_of(items, chosen) <= most_seconds:
            best, high = chosen, price
        else:
            low = price
    return best


def _near(items: Sequence[Sequence[Option]], limit: int) -> list[int]:
    pruned = [_undominated(options) for options in items]
    chosen = [kept[-1] for kept in pruned]
    spare = limit - _bytes_of(items, chosen)
    stopped = [False] * len(items)
    steps = [
        step for item, kept in enumerate(pruned) for step in _hull_steps(items[item], kept, item)
    ]
    for _, item, i in sorted(steps, key=lambda step: -step[0]):
        more = items[item][i].nbytes - items[item][chosen[item]].nbytes
        if stopped[item] or more > spare:
            stopped[item] = True
            continue
        chosen[item], spare = i, spare - more
    return _fill(items, pruned, chosen, limit)


def _hull_steps(
    options: Sequence[Option], kept: Sequence[int], item: int
) -> list[tuple[float, int, int]]:
    """(gain a byte, item, option) from the smallest option up, gains falling."""
    hull: list[int] = []
    for i in reversed(kept):
        while len(hull) > 1 and _slope(options, hull[-2], hull[-1]) <= _slope(options, hull[-1], i):
            hull.pop()
        hull.append(i)
    return [(_slope(options, a, b), item, b) for a, b in pairwise(hull)]


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    return (options[a].cost - options[b].cost) / (options[b].nbytes - options[a].nbytes)


def _require_possible(items: Sequence[Sequence[Option]], limit: int) -> None:
    smallest = sum(min(option.nbytes for option in options) for options in items)
    if smallest > limit:
        raise PlanError(f"the smallest choice has {smallest:,} bytes, {limit:,} are allowed")


_MOST_REPAIRS = 8
_PRICES = 30


def _bytes_of(items: Sequence[Sequence[Option]], chosen: Sequence[int]) -> int:
    return sum(options[i].nbytes for options, i in zip(items, chosen, strict=True))


def _undominated(options: Sequence[Option], *, timed: bool = False) -> list[int]:
    """Options no other one beats in size and cost (timed: and seconds); by falling size."""
    order = sorted(range(len(options)), key=lambda i: (options[i].nbytes, options[i].cost))
    kept: list[int] = []
    for i in order:
        cost, seconds = options[i].cost, options[i].seconds if timed else 0.0
        if not any(
            options[k].cost <= cost and (options[k].seconds if timed else 0.0) <= seconds
            for k in kept
        ):
            kept.append(i)
    return kept[::-1]


def _solve(
    items: Sequence[Sequence[Option]],
    pruned: Sequence[Sequence[int]],
    room: int,
    most_seconds: float | None,
) -> list[int] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    pairs = [(item, i) for item, kept in enumerate(pruned) for i in kept]
    costs = np.array([items[item][i].cost for item, i in pairs])
    nbytes = np.array([items[item][i].nbytes for item, i in pairs], float)
    rows = [item for item, _ in pairs]
    n = len(pairs)
    once = csr_matrix((np.ones(n), (rows, range(n))), shape=(len(items), n))
    # The smallest options are taken off, so that what is compared is the room there is to spend.
    floor = np.array([min(items[item][i].nbytes for i in pruned[item]) for item, _ in pairs], float)
    spare = room - sum(min(items[k][i].nbytes for i in kept) for k, kept in enumerate(pruned))
    if spare < 0:
        return None
    scale = max(float(spare), 1.0)
    weights = csr_matrix((nbytes - floor) / scale)
    constraints = [
        LinearConstraint(once, 1, 1),
        LinearConstraint(weights, -np.inf, spare / scale),
    ]
    if most_seconds is not None:
        seconds = np.array([items[item][i].seconds for item, i in pairs]) / most_seconds
        constraints.append(LinearConstraint(csr_matrix(seconds), -np.inf, 1.0))
    with _quiet_stdout():
        found = milp(
            costs / max(float(costs.max()), 1e-300),
            constraints=constraints,
            integrality=np.ones(n, int),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": EXACT, "time_limit": TIME_LIMIT_S},
        )
    if found.x is None:
        return None
    chosen = [kept[-1] for kept in pruned]
    for (item, i), value in zip(pairs, found.x, strict=True):
        if value > 0.5:
            chosen[item] = i
    return chosen


def _fill(
    items: Sequence[Sequence[Option]],
    pruned: Sequence[Sequence[int]],
    chosen: list[int],
    limit: int,
) -> list[int]:
    """Always the step that gains most for its bytes, while one fits."""
    spare = limit - _bytes_of(items, chosen)
    while True:
        best, gain = None, 0.0
        for item, kept in enumerate(pruned):
            now = items[item][chosen[item]]
            for i in kept:
                more = items[item][i].nbytes - now.nbytes
                if 0 < more <= spare and (now.cost - items[item][i].cost) / more > gain:
                    best, gain = (item, i), (now.cost - items[item][i].cost) / more
        if best is None:
            return chosen
        item, i = best
        spare -= items[item][i].nbytes - items[item][chosen[item]].nbytes
        chosen[item] = i


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """What native code writes to descriptor 1 meanwhile goes nowhere."""
    sys.stdout.flush()
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        _flush_c_stdout()
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _flush_c_stdout() -> None:
    """The C library's own buffer, before the descriptor is given back."""
    import ctypes

    ctypes.CDLL(None).fflush(None)
