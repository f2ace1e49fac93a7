"""Can the tier do on this model what its name says? Variants, rows, models without experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from apex_native.plan.parts import DecidedBy, Finding, FindingKind, PlannedTensor
from apex_native.plan.request import PlanRequest
from apex_native.plan.resolve import Decision, resolve_types
from apex_native.plan.short_blocks import types_for_rows
from apex_native.plan.tier import Tier, load_tier, tier_names
from apex_native.types import Classification, GgmlType

__all__ = ["tier_findings"]

_NOTICEABLE = 1.02
"""Of the size that the tier's types would have: below, a few tensors have odd rows."""

_MIX_OF_SIZE = {
    "quality": "Q5_K_M",
    "balanced": "Q5_K_M",
    "compact": "IQ4_XS",
    "mini": "IQ3_XXS",
    "nano": "IQ2_M",
    "micro": "IQ2_XS",
}
"""llama.cpp's mix with about the bits per weight that a tier has on Qwen3.5-35B-A3B."""


def tier_findings(
    request: PlanRequest,
    classification: Classification,
    tensors: Sequence[PlannedTensor],
    decisions: Mapping[str, Decision],
) -> Iterator[Finding]:
    """What there is to know about a tier and this model; nothing where no tier is asked for."""
    tier = request.tier
    if tier is None:
        return
    if not any(tensor.role.is_routed_expert for tensor in tensors):
        yield _without_experts(tier)
    elif tier.chosen is not None or tier.variants:
        yield _variant(tier)
    if tier.short_blocks:
        yield _short(tensors, decisions)
    yield from _rows(request, tier, classification, tensors, decisions)


def _without_experts(tier: Tier) -> Finding:
    mix = _MIX_OF_SIZE.get(tier.name.removeprefix("i-").partition("-")[0], tier.base.name)
    message = (
        f"the model has no experts and tier {tier.name} is for mixtures of experts: its other "
        f"weights get {tier.base}, which may be larger than you want; the mix {mix} has the bits "
        "per weight that the tier has on a mixture of experts"
    )
    return Finding(FindingKind.TIER_FOR_EXPERTS, "", message)


def _short(tensors: Sequence[PlannedTensor], decisions: Mapping[str, Decision]) -> Finding:
    """What types of short blocks came to."""
    stood_in = [t for t in tensors if decisions[t.name].meant is not None]
    if not stood_in:
        message = "all rows fit the tier's types: the file is the same without short blocks"
        return Finding(FindingKind.TIER_VARIANT, "", message)
    others = [t for t in tensors if decisions[t.name].meant is None]
    meant = sum(t.n_elements * _meant(t, decisions).bpw for t in tensors)
    got = sum(t.n_elements * t.type.bpw for t in tensors)
    rows = ", ".join(str(n) for n in sorted({t.shape[-1] for t in stood_in})[:4])
    message = (
        f"{len(stood_in)} of {len(stood_in) + len(others)} tensors have rows of {rows} and get "
        f"types of short blocks: all tensors take {_gib(got)}, {_gib(meant)} are meant"
    )
    return Finding(FindingKind.TIER_VARIANT, "", message)


def _meant(tensor: PlannedTensor, decisions: Mapping[str, Decision]) -> GgmlType:
    return decisions[tensor.name].meant or tensor.wanted


def _variant(tier: Tier) -> Finding:
    stem = tier.name.partition("-")[0]
    others = [v for v in tier.variants if v is not tier.chosen]
    if tier.chosen is not None:
        message = f"{tier.chosen.words()}, {tier.chosen.description}"
    else:
        same = next(v for v in tier.variants if _is_default(tier, v))
        others = [v for v in tier.variants if v is not same]
        message = f"{same.words()}, {same.description}"
    for other in others:
        message += f"; tier {stem}-{other.name} has {other.words()}, {other.description}"
    return Finding(FindingKind.TIER_VARIANT, "", message)


def _is_default(tier: Tier, variant: object) -> bool:
    return any(
        variant is v and tier.with_variant(v, named=False).rules == tier.rules
        for v in tier.variants
    )


def _rows(
    request: PlanRequest,
    tier: Tier,
    classification: Classification,
    tensors: Sequence[PlannedTensor],
    decisions: Mapping[str, Decision],
) -> Iterator[Finding]:
    """The tier's types need longer rows than the model has, so that the file is larger."""
    named = [t for t in tensors if t.decided_by in (DecidedBy.TIER, DecidedBy.BASE)]
    wanted = sum(t.n_elements * t.wanted.bpw for t in named)
    got = sum(t.n_elements * t.type.bpw for t in named)
    if not wanted or got < wanted * _NOTICEABLE:
        return
    others = [t for t in named if t.type is not t.wanted]
    rows = ", ".join(str(n) for n in sorted({t.shape[-1] for t in others})[:4])
    message = (
        f"tier {tier.name} cannot do on this model what its name says: {len(others)} of "
        f"{len(named)} tensors have rows of {rows}, no multiple of {others[0].wanted.block_size}, "
        f"and get larger types; the tensors take {_gib(got)} instead of {_gib(wanted)}"
    )
    same = _equal_tiers(request, tier, classification, decisions)
    if same:
        message += f", as {' and '.join(same)} would"
    yield Finding(FindingKind.TIER_UNREACHED, "", f"{message}; {_what_fits(tier, others)}")


def _gib(bits: float) -> str:
    n_bytes = bits / 8
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _equal_tiers(
    request: PlanRequest,
    tier: Tier,
    classification: Classification,
    decisions: Mapping[str, Decision],
) -> list[str]:
    """Other tiers that come to the same types."""
    ours = {name: decision.type for name, decision in decisions.items()}
    same = []
    for name in tier_names():
        other = load_tier(name).for_model(classification.facts)
        if name.startswith("i-") or name == tier.name.removeprefix("i-"):
            continue
        asked = replace(request, tier=other, file_type=other.base)
        found = resolve_types(asked, classification, request.semantics)
        if all(found[n].type is type for n, type in ours.items()):
            same.append(name)
    return same


def _what_fits(tier: Tier, tensors: Sequence[PlannedTensor]) -> str:
    """The types of short blocks that these rows can have, and the tier that uses them."""
    fitting = types_for_rows(tensor.shape[-1] for tensor in tensors)
    listed = ", ".join(f"{t} ({t.bpw:.2f} bits)" for t in fitting)
    if not listed:
        return "no quantized type fits them"
    return (
        f"types that these rows can have: {listed}; tier {tier.name}-short makes the most of them"
    )
