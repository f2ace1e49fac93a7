"""What is decided, and what is measured together: tensors, and units of them.

A unit is a layer's tensors of one kind. Its sensitivity is measured once; each of its tensors then
has a type of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apex_native.types import Classification, ClassifiedTensor, Role

__all__ = ["Kind", "Unit", "make_units"]

_KINDS = {
    Role.EXPERT_GATE: "gate_up",
    Role.EXPERT_UP: "gate_up",
    Role.EXPERT_GATE_UP: "gate_up",
    Role.EXPERT_DOWN: "down",
    Role.SHARED_EXPERT: "shared",
    Role.DENSE_FFN: "ffn",
    Role.ATTENTION: "attention",
    Role.SSM: "attention",
    Role.EMBEDDING: "embedding",
    Role.OUTPUT: "output",
}

ALWAYS_ACTIVE = frozenset({"attention", "shared"})
"""Kinds that every token passes: single probes under-measure them."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Tensors whose sensitivity is measured together; layer is None outside the blocks."""

    name: str
    kind: str
    layer: int | None
    tensors: tuple[str, ...]


Kind = str


def make_units(classification: Classification, decided: Iterable[str]) -> tuple[Unit, ...]:
    """The units of the tensors that have a choice; those of prediction blocks belong to none.

    In the order of the layers, the embedding first and the output last.
    """
    wanted = set(decided)
    groups: dict[tuple[float, str], list[ClassifiedTensor]] = {}
    for tensor in classification.tensors:
        if tensor.name not in wanted or tensor.is_mtp or tensor.role is Role.MTP:
            continue
        kind = _KINDS.get(tensor.role, "other")
        groups.setdefault((_order(tensor, kind), kind), []).append(tensor)
    units = []
    for (_, kind), members in sorted(groups.items(), key=lambda item: item[0]):
        layer = members[0].layer
        name = kind if layer is None else f"{layer}.{kind}"
        units.append(Unit(name, kind, layer, tuple(tensor.name for tensor in members)))
    return tuple(units)


def _order(tensor: ClassifiedTensor, kind: str) -> float:
    if tensor.layer is not None:
        return float(tensor.layer)
    return -1.0 if kind == "embedding" else float("inf")
