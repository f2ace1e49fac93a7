"""Looking a plan over: what a user would want to know before hours of quantization."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from apex_native.plan.audit_imatrix import imatrix_findings
from apex_native.plan.audit_model import model_findings
from apex_native.plan.audit_tier import tier_findings
from apex_native.plan.parts import DecidedBy, Finding, FindingKind, PlannedTensor
from apex_native.plan.readers import reader_findings
from apex_native.plan.request import PlanRequest
from apex_native.plan.resolve import Decision
from apex_native.types import Classification, GgufFacts, Role

__all__ = ["audit"]

_KINDS_OF_RULES = 4
"""Kinds of rules without effect that are named; the rest is counted."""

_MATTERS_UNCLAIMED = frozenset(
    {Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN, Role.EXPERT_GATE_UP}
    | {Role.SHARED_EXPERT, Role.ATTENTION}
)
"""Roles a tier is about: a recipe that forgets them has missed most of the model."""


def audit(
    request: PlanRequest,
    classification: Classification,
    facts: GgufFacts,
    tensors: Sequence[PlannedTensor],
    decisions: Mapping[str, Decision],
) -> tuple[Finding, ...]:
    """All findings about a plan, in the order of the checks and of the tensors."""
    return (
        *model_findings(classification, facts, repairs=request.options.repair),
        *tier_findings(request, classification, tensors, decisions),
        *_rules_without_effect(request, decisions),
        *_given_types(request, tensors),
        *_unclaimed(request, tensors, decisions),
        *_roles_absent(request, tensors),
        *_fallbacks(tensors),
        *_sources(tensors),
        *imatrix_findings(request, tensors),
        *reader_findings(tensor.type for tensor in tensors),
        *_not_as_upstream(request, tensors),
    )


def _rules_without_effect(
    request: PlanRequest, decisions: Mapping[str, Decision]
) -> Iterator[Finding]:
    kind = FindingKind.RULE_WITHOUT_EFFECT
    matches = [(rule, [n for n in decisions if rule.matches(n)]) for rule in request.rules]
    dead = [rule.text for rule, matched in matches if not matched]
    if dead:
        yield Finding(kind, "", _dead_rules(dead))
    for rule, matched in matches:
        if matched and not any(decisions[name].rule is rule for name in matched):
            yield Finding(
                kind,
                matched[0],
                f"rule {rule.text} matches {len(matched)} tensors and decides none: they are "
                "never quantized, or an option or an earlier rule comes first",
            )


def _dead_rules(texts: Sequence[str]) -> str:
    """One sentence for all rules that match nothing: rules that differ in numbers are one kind."""
    if len(texts) == 1:
        return f"rule {texts[0]} matches no tensor"
    kinds: dict[str, list[str]] = {}
    for text in texts:
        kinds.setdefault(re.sub(r"\d+", "N", text.rpartition("=")[0]), []).append(text)
    named = sorted(kinds.values(), key=len, reverse=True)[:_KINDS_OF_RULES]
    shown = ", ".join(f"{len(k)} like {k[0]}" if len(k) > 1 else k[0] for k in named)
    rest = len(texts) - sum(len(found) for found in named)
    more = f" and {rest} more" if rest else ""
    return f"{len(texts)} rules match no tensor: {shown}{more}"


def _given_types(request: PlanRequest, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    if request.types is None:
        return
    whose = "the other file has" if request.is_like else "the types name"
    names = {tensor.name for tensor in tensors}
    strangers = [name for name in request.types if name not in names]
    if strangers:
        yield Finding(
            FindingKind.RULE_WITHOUT_EFFECT,
            "",
            f"{whose} {len(strangers)} tensors this model lacks, the first is {strangers[0]}",
        )
    for tensor in tensors:
        other = request.types.get(tensor.name, tensor.type)
        if tensor.decided_by is DecidedBy.KEPT and other is not tensor.type:
            yield Finding(
                FindingKind.LIKE_NOT_FOLLOWED,
                tensor.name,
                f"{whose} {other}; kept as {tensor.type} ({tensor.reason})",
            )


def _unclaimed(
    request: PlanRequest,
    tensors: Sequence[PlannedTensor],
    decisions: Mapping[str, Decision],
) -> Iterator[Finding]:
    unclaimed = [tensor for tensor in tensors if not decisions[tensor.name].claimed]
    followers: Counter[Role] = Counter()
    for tensor in unclaimed:
        if request.types is not None:
            where = "in the other file" if request.is_like else "among the types"
            message = f"not {where}: left as {tensor.type}"
        elif tensor.role in _MATTERS_UNCLAIMED:
            message = f"no rule of the tier names {tensor.role.value}: {tensor.reason}"
        else:
            followers[tensor.role] += 1
            continue
        yield Finding(FindingKind.UNCLAIMED, tensor.name, message)
    for role, count in followers.items():
        noun = "tensor follows" if count == 1 else "tensors follow"
        message = f"role {role.value}: {count} {noun} the base mix {request.file_type}"
        yield Finding(FindingKind.FOLLOWS_BASE, "", message)


def _roles_absent(request: PlanRequest, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    if request.tier is None:
        return
    present = {tensor.role for tensor in tensors}
    for rule in request.tier.rules:
        if not rule.roles & present:
            roles = ", ".join(sorted(role.value for role in rule.roles))
            message = f"the model has no tensors for the tier's rule '{rule.name}' ({roles})"
            yield Finding(FindingKind.ROLE_ABSENT, "", message)


def _fallbacks(tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    for tensor in tensors:
        if tensor.type is not tensor.wanted:
            yield Finding(
                FindingKind.SHAPE_FALLBACK,
                tensor.name,
                f"{tensor.wanted} needs rows that are multiples of {tensor.wanted.block_size}, "
                f"found {tensor.shape[-1]}: {tensor.type} instead",
            )


def _sources(tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    for tensor in tensors:
        source = tensor.source_type
        if source is tensor.type:
            continue
        if not source.is_target:
            message = f"{source} cannot be converted to {tensor.type}"
            yield Finding(FindingKind.UNSUPPORTED_SOURCE, tensor.name, message)
        elif source.is_quantized:
            message = f"is {source} already; requantizing to {tensor.type} adds error to error"
            yield Finding(FindingKind.REQUANTIZES, tensor.name, message)


def _not_as_upstream(request: PlanRequest, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    kind = FindingKind.NOT_AS_UPSTREAM
    file_type = request.file_type
    if request.rules and file_type is not None and not file_type.is_quantized:
        message = f"llama-quantize ignores tensor-type rules with {file_type}; they apply here"
        yield Finding(kind, "", message)
    for tensor in tensors:
        if tensor.decided_by is DecidedBy.OPTION and tensor.type is not tensor.wanted:
            message = f"llama-quantize has no fallback for the {tensor.reason} and aborts"
            yield Finding(kind, tensor.name, message)
