"""What the caller of make_plan asked for, checked and resolved before any tensor is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from apex_native.errors import PlanError
from apex_native.plan.edges import Edges, default_edges
from apex_native.plan.ftypes import FileType
from apex_native.plan.imatrix import ImatrixSummary
from apex_native.plan.parts import PlanOptions
from apex_native.plan.rules import TensorTypeRule, parse_rule
from apex_native.plan.tier import Tier, load_tier
from apex_native.types import Classification, GgmlType

__all__ = ["PlanRequest", "Semantics", "resolve_request"]

Semantics = Literal["published", "declared"]

GIVEN = "as given"
"""The reason for a type where the caller of `make_plan` gave none."""

SEMANTICS: tuple[Semantics, ...] = ("published", "declared")


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A valid request: exactly one of a tier, a file type alone, or a map of types.

    file_type is the base mix of a tier or the one asked for; None with ``types``. types_from says
    why types are what they are; is_like: because another file has them.
    """

    tier: Tier | None
    file_type: FileType | None
    types: Mapping[str, GgmlType] | None
    types_from: str
    is_like: bool
    semantics: Semantics
    edges: Edges | None
    edges_rule: str
    rules: tuple[TensorTypeRule, ...]
    options: PlanOptions
    imatrix: ImatrixSummary | None

    @property
    def base(self) -> Literal["tier", "ftype", "like", "types"]:
        """What the plan is made from."""
        if self.tier is not None:
            return "tier"
        if self.file_type is not None:
            return "ftype"
        return "like" if self.is_like else "types"

    @property
    def needs_imatrix(self) -> bool:
        """True for a tier that is defined with an importance matrix."""
        return self.tier is not None and self.tier.needs_imatrix

    @property
    def has_imatrix(self) -> bool:
        """What the base mix is told: an imatrix is there, or will be before quantization."""
        return self.needs_imatrix or (self.imatrix is not None and bool(self.imatrix.entries))


def resolve_request(
    classification: Classification,
    *,
    tier: str | None,
    ftype: str | None,
    like: Mapping[str, GgmlType] | None,
    types: Mapping[str, GgmlType] | None,
    reason: str,
    semantics: str,
    edges: Edges | None,
    options: PlanOptions,
    imatrix: ImatrixSummary | None,
) -> PlanRequest:
    """Check a request and look up what it names; PlanError says what is wrong with it."""
    _check_one_base(tier, ftype, like, types)
    if reason and types is None:
        raise PlanError("reason says why types are as they are; give it together with types")
    chosen_semantics = next((s for s in SEMANTICS if s == semantics), None)
    if chosen_semantics is None:
        raise PlanError(f"semantics must be one of {', '.join(SEMANTICS)}, found '{semantics}'")
    loaded = load_tier(tier) if tier is not None else None
    file_type = FileType.parse(ftype) if ftype is not None else None
    if edges is not None and loaded is None:
        raise PlanError("edges belong to a tier; a file type or a map of types has none")
    edges_rule = "given by the caller"
    if loaded is not None:
        loaded = loaded.for_model(classification.facts)
        file_type = loaded.base
        if edges is None:
            edges, edges_rule = default_edges(classification.n_layer)
    own_types = like if like is not None else types
    _check_options(options, file_type, own_types)
    if like is not None and not any(t.name in like for t in classification.facts.tensors):
        raise PlanError(
            "the other file has none of this model's tensors; give a GGUF file of the same model"
        )
    return PlanRequest(
        tier=loaded,
        file_type=file_type,
        types=own_types,
        types_from="as in the other file" if like is not None else reason or GIVEN,
        is_like=like is not None,
        semantics=chosen_semantics,
        edges=edges,
        edges_rule=edges_rule if loaded is not None else "",
        rules=tuple(parse_rule(text) for text in options.tensor_types),
        options=options,
        imatrix=imatrix,
    )


def _check_one_base(
    tier: str | None,
    ftype: str | None,
    like: Mapping[str, GgmlType] | None,
    types: Mapping[str, GgmlType] | None,
) -> None:
    given = {"tier": tier, "ftype": ftype, "like": like, "types": types}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        found = " and ".join(names) if names else "none"
        raise PlanError(f"a plan needs exactly one of tier, ftype, like and types; found {found}")


def _check_options(
    options: PlanOptions, file_type: FileType | None, types: Mapping[str, GgmlType] | None
) -> None:
    for name in ("output_tensor_type", "token_embedding_type"):
        given = getattr(options, name)
        if given is not None and not given.is_target:
            raise PlanError(f"{name}: weights cannot be written as {given}")
    if (
        file_type is FileType.COPY
        and replace(options, repair=False, override_kv=()) != PlanOptions()
    ):
        raise PlanError("COPY keeps every tensor as it is and takes no overrides")
    if types is not None and options.pure:
        raise PlanError("pure switches off a base mix; a plan of given types has none")


def as_rule_texts(texts: Sequence[str], name: str = "tensor_types") -> tuple[str, ...]:
    """Rules as a tuple; a lone string is a mistake that would be read letter by letter."""
    if isinstance(texts, str):
        raise PlanError(f"{name} must be a sequence of rules, found the string '{texts}'")
    return tuple(texts)
