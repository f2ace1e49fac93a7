"""Strategies people use, as rules that can be had at any size.

A strategy gives tensors weights and pins some of their types; what is left of the size goes where
the weighted error of a generic curve (a quarter for every bit) falls most. No measurement is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from apex_native.allocation.knapsack import Option, solve_knapsack
from apex_native.allocation.ladder import ladder_types
from apex_native.allocation.space import SearchSpace
from apex_native.types import ClassifiedTensor, GgmlType, Role

__all__ = ["STRATEGIES", "Strategy", "strategy_types"]

T = GgmlType

Weight = Callable[[ClassifiedTensor, float], float]
"""Of a tensor and its depth, 0 at the first layer, 1 at the last, -1 outside; 1 is neutral."""

_DOWN = {Role.EXPERT_DOWN}
_GATE_UP = {Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_GATE_UP}
_EXPERTS = _DOWN | _GATE_UP
_ATTENTION = {Role.ATTENTION, Role.SSM}
_SHARED = {Role.SHARED_EXPERT}

STEP = 4.0
"""What one bit more is worth: a weight of 4 asks for a bit above the others."""


def _neutral(_: ClassifiedTensor, __: float) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Strategy:
    """pinned: types by role. ladder: as in a search. matrix: False does without one."""

    name: str
    says: str
    weight: Weight = _neutral
    pinned: Mapping[Role, GgmlType] | None = None
    ladder: str = "all"
    matrix: bool = True


def _edges(n_of_40: int) -> Weight:
    share = n_of_40 / 40

    def weight(tensor: ClassifiedTensor, depth: float) -> float:
        if tensor.role not in _EXPERTS or depth < 0:
            return 1.0
        return STEP if depth < share or depth > 1 - share else 1.0

    return weight


def _slope(first: float, last: float) -> Weight:
    """From first bits above at the first layer to last at the last one."""

    def weight(_: ClassifiedTensor, depth: float) -> float:
        return STEP ** (first + (last - first) * depth) if depth >= 0 else 1.0

    return weight


def _middle(_: ClassifiedTensor, depth: float) -> float:
    return STEP if 0.25 <= depth <= 0.75 else 1.0


def _gradient(tensor: ClassifiedTensor, depth: float) -> float:
    if tensor.role not in _EXPERTS or depth < 0:
        return STEP
    near = min(depth, 1 - depth)
    return STEP**2 if near < 0.125 else STEP if near < 0.25 else 1.0


def _role(roles: set[Role]) -> Weight:
    return lambda tensor, _: STEP if tensor.role in roles else 1.0


def _pin(roles: set[Role], type: GgmlType) -> Mapping[Role, GgmlType]:
    return dict.fromkeys(roles, type)


STRATEGIES: tuple[Strategy, ...] = (
    Strategy("uniform", "every weight is worth the same"),
    Strategy("uniform-k", "the same with K types only", ladder="k-only"),
    Strategy("uniform-iq", "the same with IQ types only, Q8_0 above them", ladder="iq-only"),
    Strategy("uniform-no-matrix", "without an importance matrix", matrix=False),
    *(
        Strategy(f"edges-{n}", f"experts of {n} of 40 layers at each end a bit above", _edges(n))
        for n in (3, 5, 8, 10)
    ),
    Strategy("front-heavy", "two bits more at the first layer, falling", _slope(2, 0)),
    Strategy("back-heavy", "two bits more at the last layer, rising", _slope(0, 2)),
    Strategy("middle-heavy", "the middle half a bit above", _middle),
    Strategy("gradient", "experts in three steps from the ends, all else above", _gradient),
    *(
        Strategy(f"shared-{t.name}", f"shared experts in {t.name}", pinned=_pin(_SHARED, t))
        for t in (T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0)
    ),
    *(
        Strategy(f"attention-{t.name}", f"attention, SSM in {t.name}", pinned=_pin(_ATTENTION, t))
        for t in (T.Q4_K, T.Q6_K, T.Q8_0)
    ),
    Strategy(
        "always-active-Q8_0", "attention, SSM and shared experts in Q8_0, cheaper experts",
        pinned=_pin(_ATTENTION | _SHARED, T.Q8_0),
    ),
    Strategy("down-above", "experts' down a bit above gate and up", _role(_DOWN)),
    Strategy("gate-up-above", "gate and up a bit above down", _role(_GATE_UP)),
    Strategy("experts-above", "routed experts a bit above the rest", _role(_EXPERTS)),
    Strategy("embedding-Q8_0", "embeddings in Q8_0", pinned={Role.EMBEDDING: T.Q8_0}),
    Strategy("output-Q8_0", "output in Q8_0", pinned={Role.OUTPUT: T.Q8_0}),
    Strategy(
        "ends-Q8_0", "embeddings and output in Q8_0",
        pinned={Role.EMBEDDING: T.Q8_0, Role.OUTPUT: T.Q8_0},
    ),
    *(
        Strategy(f"experts-{t.name}", f"routed experts in {t.name}", pinned=_pin(_EXPERTS, t))
        for t in (T.Q6_K, T.IQ4_XS, T.Q3_K, T.IQ3_S)
    ),
)  # fmt: skip
"""Compared by `apex-native strategies`; the search itself is one more."""


def strategy_types(space: SearchSpace, strategy: Strategy, limit: int) -> dict[str, GgmlType]:
    """Its types for a file of limit bytes at most; PlanError where its pins do not fit."""
    ladder = set(ladder_types(strategy.ladder))
    items, options = [], []
    for tensor in space.classification.tensors:
        if tensor.name not in space.choices:
            continue
        types = _types(space, strategy, tensor, ladder)
        weight = strategy.weight(tensor, _depth(space, tensor)) * tensor.info.n_elements
        items.append(
            [Option(space.nbytes(tensor.name, t), weight * STEP ** (-t.bpw)) for t in types]
        )
        options.append((tensor.name, types))
    chosen = solve_knapsack(items, limit - space.fixed_bytes)
    return {name: types[i] for (name, types), i in zip(options, chosen, strict=True)}


def _types(
    space: SearchSpace, strategy: Strategy, tensor: ClassifiedTensor, ladder: set[GgmlType]
) -> list[GgmlType]:
    choices = space.choices[tensor.name]
    pin = (strategy.pinned or {}).get(tensor.role)
    if pin is not None:
        return [min(choices, key=lambda t: (abs(t.bpw - pin.bpw), t is not pin))]
    within = [t for t in choices if t in ladder]
    return within or list(choices)


def _depth(space: SearchSpace, tensor: ClassifiedTensor) -> float:
    if tensor.layer is None:
        return -1.0
    return tensor.layer / max(space.classification.n_layer - 1, 1)
