"""Types of short blocks for rows that the types of a tier do not fit, in the size it is meant for.

Where rows are no multiples of 256, llama.cpp takes for each type one of at least its precision, and
a file of 4 bits a weight comes out with 5. Here all such weights together get the bytes that they
were meant to have, and every one the type that does least harm: how sensitive a weight is, the
tier says itself by the type it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from apex_native.plan.readers import CANNOT_READ
from apex_native.types import GgmlType

__all__ = ["TooShort", "short_types", "types_for_rows"]

_RMSE = {
    "Q8_0": 0.0054, "Q6_K": 0.0178, "Q5_K": 0.0361, "Q5_1": 0.0379, "Q5_0": 0.0427,
    "Q4_K": 0.0713, "IQ4_NL": 0.0762, "IQ4_XS": 0.0768, "Q4_1": 0.0781, "Q4_0": 0.0858,
    "MXFP4": 0.1143, "Q3_K": 0.1505, "IQ3_S": 0.1657, "IQ3_XXS": 0.2122, "IQ2_S": 0.2650,
    "Q2_K": 0.2954, "IQ2_XS": 0.3573, "IQ2_XXS": 0.4343, "IQ1_M": 0.5338, "IQ1_S": 0.5544,
    "TQ1_0": 0.8097, "TQ2_0": 0.8097, "NVFP4": 0.1034, "Q1_0": 0.6010, "Q2_0": 0.7189,
}  # fmt: skip
"""Relative RMSE on normal rows; with importances for types that need them
(bench/results/quantization_error.md)."""


@dataclass(frozen=True, slots=True)
class TooShort:
    """A tensor whose rows are no multiple of the wanted type's blocks."""

    name: str
    wanted: GgmlType
    n_per_row: int
    n_elements: int
    layer: int | None


def types_for_rows(rows: Iterable[int]) -> tuple[GgmlType, ...]:
    """Quantized types of blocks below 256 that all these rows can have, smallest first.

    Types that common readers cannot open are left out.
    """
    lengths = set(rows)
    fitting = [
        type
        for type in GgmlType
        if type.is_target
        and type.is_quantized
        and type.block_size < 256
        and type not in CANNOT_READ
        and all(n % type.block_size == 0 for n in lengths)
    ]
    return tuple(sorted(fitting, key=lambda t: t.bpw))


def short_types(tensors: Sequence[TooShort], n_layer: int) -> dict[str, GgmlType]:
    """A type for every tensor that can have a short one, in no more bytes than they are meant for.

    The cost of a type is its squared error in units of the wanted type's; the steps to larger types
    are taken in the order of what they gain for their bytes, and the last one as far as it goes:
    from the outer layers inwards. Where even the smallest types take more, nothing is to be had by
    squeezing the few weights that the tier spares: each gets the smallest of at least its bits.
    """
    groups: dict[tuple[GgmlType, tuple[GgmlType, ...]], list[TooShort]] = {}
    for tensor in tensors:
        ladder = _ladder(tensor.wanted, tensor.n_per_row)
        if ladder:
            groups.setdefault((tensor.wanted, ladder), []).append(tensor)
    chosen = {t.name: ladder[0] for (_, ladder), group in groups.items() for t in group}
    able = [tensor for group in groups.values() for tensor in group]
    room = sum(t.n_elements * (t.wanted.bpw - chosen[t.name].bpw) for t in able)
    if room < 0:
        return {t.name: _at_least(t.wanted, t.n_per_row) for t in able}
    steps = [
        (_gain(wanted, low, high), wanted, ladder, low, high)
        for wanted, ladder in groups
        for low, high in pairwise(ladder)
    ]
    stopped = set()
    for _, wanted, ladder, low, high in sorted(steps, key=lambda step: (-step[0], step[1].id)):
        if (wanted, ladder) in stopped:
            continue
        for tensor in sorted(groups[wanted, ladder], key=lambda t: _depth(t.layer, n_layer)):
            more = tensor.n_elements * (high.bpw - low.bpw)
            if more > room:
                stopped.add((wanted, ladder))  # no further step: its layers keep their order
                break
            chosen[tensor.name], room = high, room - more
    return chosen


def _ladder(wanted: GgmlType, n_per_row: int) -> tuple[GgmlType, ...]:
    """The types on the lower convex hull of size and squared error, smallest first."""
    hull: list[GgmlType] = []
    for type in sorted(types_for_rows([n_per_row]), key=lambda t: (t.bpw, _RMSE[t.name])):
        if hull and _RMSE[type.name] >= _RMSE[hull[-1].name]:
            continue
        while len(hull) > 1 and _gain(wanted, hull[-2], hull[-1]) <= _gain(wanted, hull[-1], type):
            hull.pop()
        hull.append(type)
    return tuple(hull)


def _at_least(wanted: GgmlType, n_per_row: int) -> GgmlType:
    """The smallest type of at least the wanted bits, the better one of two; else the largest."""
    ladder = _ladder(wanted, n_per_row)
    return next((type for type in ladder if type.bpw >= wanted.bpw), ladder[-1])


def _gain(wanted: GgmlType, low: GgmlType, high: GgmlType) -> float:
    """Squared error taken away by a bit a weight more, in units of the wanted type's."""
    error = _RMSE[low.name] ** 2 - _RMSE[high.name] ** 2
    return error / (high.bpw - low.bpw) / _RMSE[wanted.name] ** 2


def _depth(layer: int | None, n_layer: int) -> int:
    """How far from the nearest end; what lies outside the layers comes first."""
    return -1 if layer is None else min(layer, n_layer - 1 - layer)
