"""A plan by role: which layers have which types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apex_native.plan import DecidedBy, Plan, PlannedTensor
from apex_native.reports.layers import format_layers
from apex_native.types import GgmlType, Role

__all__ = ["RoleLayout", "role_layouts"]

_TOO_MANY_PIECES = 5
"""From so many commas on a list of layers is not read; the longest becomes "others"."""


@dataclass(frozen=True, slots=True)
class RoleLayout:
    """One role of a plan; types reads like ``0, 7: Q6_K · 1, 6: Q5_K · 2–5: IQ4_XS``."""

    role: Role
    types: str
    n_tensors: int
    nbytes: int
    bpw: float


def role_layouts(plan: Plan) -> tuple[RoleLayout, ...]:
    """One row for each role that has tensors, in the order of ``Role``."""
    return tuple(
        RoleLayout(
            role=row.role,
            types=_types([tensor for tensor in plan.tensors if tensor.role is row.role]),
            n_tensors=row.n_tensors,
            nbytes=row.nbytes,
            bpw=row.bpw,
        )
        for row in plan.summary_by_role()
    )


def _types(tensors: Iterable[PlannedTensor]) -> str:
    """Layers by their types; what keeps its type (norms; as published) comes last."""
    by_place: dict[int | None, set[GgmlType]] = {}
    kept: set[GgmlType] = set()
    stored: set[GgmlType] = set()
    for tensor in tensors:
        if tensor.decided_by is DecidedBy.KEPT:
            kept.add(tensor.type)
        elif tensor.decided_by is DecidedBy.STORED:
            stored.add(tensor.type)
        else:
            by_place.setdefault(tensor.layer, set()).add(tensor.type)
    parts = _by_layers(by_place)
    if stored:
        parts.append(f"{_joined(stored)} as stored")
    if kept:
        parts.append(f"{_joined(kept)} kept")
    return " · ".join(parts)


def _by_layers(by_place: dict[int | None, set[GgmlType]]) -> list[str]:
    layers_of: dict[str, list[int]] = {}
    outside = [_joined(types) for layer, types in by_place.items() if layer is None]
    for layer, types in by_place.items():
        if layer is not None:
            layers_of.setdefault(_joined(types), []).append(layer)
    if len(layers_of) <= 1:
        # One mixture everywhere: the layers say nothing.
        return [*layers_of, *outside]
    ordered = sorted(layers_of.items(), key=lambda item: min(item[1]))
    names = {types: format_layers(layers) for types, layers in ordered}
    longest = max(names, key=lambda types: names[types].count(","))
    if names[longest].count(",") >= _TOO_MANY_PIECES:
        names[longest] = "others"
    return [f"{names[types]}: {types}" for types, _ in ordered] + outside


def _joined(types: Iterable[GgmlType]) -> str:
    """The types of one layer, those of most bits first: equal sets read equal."""
    return " + ".join(type.name for type in sorted(types, key=lambda t: (-t.bpw, t.id)))
