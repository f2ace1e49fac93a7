"""What can be made of a model whose rows do not fit a tier's types: recipes of every size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from apex_native.api.arguments import AnyImatrix, AnySource, opened
from apex_native.api.planning import make_plan
from apex_native.argument_kinds import require_kind
from apex_native.plan import DecidedBy, FileType, FindingKind, Plan, tier_names
from apex_native.plan.short_blocks import types_for_rows
from apex_native.types import GgmlType

__all__ = ["RowOffer", "RowOffers", "is_unreached", "row_offers"]


@dataclass(frozen=True, slots=True)
class RowOffer:
    """One recipe of types that the rows can have; arguments are `make_plan`'s."""

    arguments: dict[str, Any]
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "arguments": self.arguments,
            "total_bytes": self.plan.total_bytes,
            "bpw": self.plan.bpw,
            "expert_types": self.expert_types,
        }

    @property
    def expert_types(self) -> str:
        """``Q5_1 12, Q5_0 24``: types of the routed experts' tensors, the largest first."""
        counts: dict[str, int] = {}
        experts = [t for t in self.plan.tensors if t.role.is_routed_expert]
        for tensor in sorted(experts, key=lambda t: (-t.type.bpw, t.type.name)):
            counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{name} {n}" for name, n in counts.items())


@dataclass(frozen=True, slots=True)
class RowOffers:
    """For a tier whose types the rows do not fit: its size as meant, and what there is, by size."""

    tier: str
    rows: tuple[int, ...]
    meant_bytes: int
    offers: tuple[RowOffer, ...]

    @property
    def stand_in(self) -> RowOffer:
        """The offer for this tier: as near to the size it means as the types allow."""
        return next(o for o in self.offers if o.arguments.get("tier") == f"{self.tier}-short")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "tier": self.tier,
            "rows": list(self.rows),
            "meant_bytes": self.meant_bytes,
            "stand_in": self.stand_in.arguments,
            "recipes": [offer.to_dict() for offer in self.offers],
        }


def row_offers(
    source: AnySource, plan: Plan, *, imatrix: AnyImatrix | None = None
) -> RowOffers | None:
    """What can be made instead of a plan that says "tier-unreached"; None for any other plan.

    Every tier with types of short blocks (``NAME-short``), and every one of these types for the
    experts with Q8_0 for the rest and alone, the largest first; of equal ones the first. Errors
    are `make_plan`'s.
    """
    require_kind("plan", plan, Plan, "give what apex.make_plan gave")
    if plan.tier is None or not is_unreached(plan):
        return None
    named = [t for t in plan.tensors if t.decided_by in (DecidedBy.TIER, DecidedBy.BASE)]
    short = [t for t in named if t.type is not t.wanted]
    rows = tuple(sorted({tensor.shape[-1] for tensor in short}))
    too_many = sum(t.n_elements * (t.type.bpw - t.wanted.bpw) for t in short) / 8
    found: dict[str, RowOffer] = {}
    with opened("source", source) as file:
        for arguments in _recipes(plan.tier, rows):
            made = make_plan(file, imatrix=imatrix, **arguments)
            offer = RowOffer(arguments, made)
            found.setdefault(made.rules_sha256, offer)
    offers = sorted(found.values(), key=lambda offer: -offer.plan.total_bytes)
    return RowOffers(plan.tier, rows, round(plan.total_bytes - too_many), tuple(offers))


def is_unreached(plan: Plan) -> bool:
    """The plan's tier cannot do on this model what its name says."""
    return any(finding.kind is FindingKind.TIER_UNREACHED for finding in plan.findings)


def _recipes(tier: str, rows: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Arguments of `make_plan`; the tier that was asked for comes first and keeps its name."""
    yield {"tier": f"{tier}-short"}
    names = tier_names()
    for name in names:
        has_twin = name.startswith("i-") or f"i-{name}" in names
        if not has_twin or name.startswith("i-") == tier.startswith("i-"):
            yield {"tier": f"{name}-short"}
    for type in types_for_rows(rows):
        if type is not GgmlType.Q8_0:
            yield {"ftype": "Q8_0", "tensor_types": (f"_exps={type}",)}
        if type.name in FileType.__members__:
            yield {"ftype": type.name}
