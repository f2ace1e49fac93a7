"""Deciding every tensor's type: options, rules, tier, base mix, in llama.cpp's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from apex_native.errors import PlanError
from apex_native.plan.allow import reason_to_keep
from apex_native.plan.edges import Edges
from apex_native.plan.fallback import fit_to_rows
from apex_native.plan.ftypes import FileType
from apex_native.plan.hparams import MixModel
from apex_native.plan.mix import Mix
from apex_native.plan.names import TensorCategory, category_of, weights_map_key
from apex_native.plan.parts import DecidedBy
from apex_native.plan.request import PlanRequest, Semantics
from apex_native.plan.rules import TensorTypeRule, first_match
from apex_native.plan.short_blocks import TooShort, short_types
from apex_native.plan.tier import Tier
from apex_native.types import Classification, ClassifiedTensor, GgmlType

__all__ = ["Decision", "resolve_types"]


_PUBLISHED = frozenset({GgmlType.MXFP4, GgmlType.NVFP4})
"""Types that models are published in, and that a converter takes over bit by bit. A tier or a mix
is about weights of 16 bits; who wants these in another type says so with a rule."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The type asked for a tensor and the one it can have; rule is set if a rule decided."""

    wanted: GgmlType
    type: GgmlType
    decided_by: DecidedBy
    reason: str
    rule: TensorTypeRule | None = None
    claimed: bool = True
    """False where a tier says nothing of the tensor's role and the base mix decided."""
    meant: GgmlType | None = None
    """What a tier means where a type of short blocks stands in for it."""


def resolve_types(
    request: PlanRequest, classification: Classification, semantics: Semantics
) -> dict[str, Decision]:
    """Decide all tensors under the given semantics (which matter only for tiers).

    Under "published" a tier's type that equals the base mix's default type is not applied and
    the base mix decides, as llama-quantize did when the tiers were published. A rule the user
    gave is always applied. Raises PlanError where no type can be found.
    """
    resolver = _Resolver(request, classification, semantics)
    in_order = sorted(classification.tensors, key=lambda tensor: weights_map_key(tensor.name))
    decisions = {tensor.name: resolver.decide(tensor) for tensor in in_order}
    if request.tier is not None and request.tier.short_blocks:
        decisions |= _shortened(decisions, classification)
    return decisions


def _shortened(
    decisions: Mapping[str, Decision], classification: Classification
) -> dict[str, Decision]:
    """What the tier decided and rows did not fit, again with types of short blocks."""
    by_tier = (DecidedBy.TIER, DecidedBy.BASE)
    found = []
    for tensor in classification.tensors:
        made = decisions[tensor.name]
        if made.decided_by in by_tier and made.type is not made.wanted:
            info = tensor.info
            found.append(
                TooShort(info.name, made.wanted, info.n_per_row, info.n_elements, tensor.layer)
            )
    chosen = short_types(found, classification.n_layer)
    return {
        name: replace(
            decisions[name],
            wanted=type,
            type=type,
            meant=decisions[name].wanted,
            reason=f"{decisions[name].reason}: {type}, so that all take what the tier means",
        )
        for name, type in chosen.items()
    }


class _Resolver:
    """One pass over the tensors; stateful because the base mix counts."""

    def __init__(
        self,
        request: PlanRequest,
        classification: Classification,
        semantics: Semantics,
    ) -> None:
        self._request = request
        self._options = request.options
        self._architecture = classification.architecture
        self._n_layer = classification.n_layer
        self._semantics = semantics
        self._as_stored = classification.facts.as_stored
        self._mix: Mix | None = None
        file_type = request.file_type
        if file_type is not None and file_type.is_quantized and not request.options.pure:
            self._mix = Mix(
                file_type,
                MixModel.from_facts(classification.facts),
                [tensor.name for tensor in classification.tensors],
                has_imatrix=request.has_imatrix,
                output_tensor_type=request.options.output_tensor_type,
            )

    def decide(self, tensor: ClassifiedTensor) -> Decision:
        kept = self._reason_to_keep(tensor)
        if kept is not None:
            source = tensor.info.type
            return Decision(source, source, DecidedBy.KEPT, kept)
        rule = first_match(self._request.rules, tensor.name)
        option = self._by_option(tensor.name, has_rule=rule is not None)
        if option is not None:
            wanted, name = option
            return self._fitted(tensor, wanted, DecidedBy.OPTION, name)
        if rule is not None:
            return self._fitted(tensor, rule.type, DecidedBy.RULE, f"rule {rule.text}", rule)
        if self._request.types is not None:
            return self._by_map(tensor, self._request.types)
        source = tensor.info.type
        if not self._options.pure and (source in _PUBLISHED or tensor.name in self._as_stored):
            reason = f"as stored: {source} holds what was published, another type adds error to it"
            return Decision(source, source, DecidedBy.STORED, reason)
        if self._request.tier is not None and self._request.edges is not None:
            return self._by_tier(tensor, self._request.tier, self._request.edges)
        return self._by_base(tensor)

    def _reason_to_keep(self, tensor: ClassifiedTensor) -> str | None:
        if self._request.file_type is FileType.COPY:
            return "COPY keeps every tensor"
        return reason_to_keep(
            tensor.name,
            tensor.info.shape,
            self._architecture,
            keep_output=self._options.leave_output_tensor,
        )

    def _by_option(self, name: str, *, has_rule: bool) -> tuple[GgmlType, str] | None:
        """The type an option fixes; only the per-layer embedding table yields to a rule."""
        category = category_of(name)
        embedding = self._options.token_embedding_type
        if embedding is not None and category is TensorCategory.TOKEN_EMBD:
            yields = has_rule and name == "per_layer_token_embd.weight"
            return None if yields else (embedding, "token embedding type")
        output = self._options.output_tensor_type
        if output is not None and category is TensorCategory.OUTPUT:
            return output, "output tensor type"
        return None

    def _by_map(self, tensor: ClassifiedTensor, types: Mapping[str, GgmlType]) -> Decision:
        request = self._request
        decided_by = DecidedBy.LIKE if request.is_like else DecidedBy.TYPES
        wanted = types.get(tensor.name)
        if wanted is None:
            source = tensor.info.type
            where = "in the other file" if request.is_like else "among the types"
            reason = f"not {where}: left as it is"
            return Decision(source, source, decided_by, reason, claimed=False)
        if not wanted.is_target:
            where = "the other file has" if request.is_like else "the types say"
            raise PlanError(f"{tensor.name}: {where} {wanted}, which cannot be written")
        return self._fitted(tensor, wanted, decided_by, request.types_from)

    def _by_tier(self, tensor: ClassifiedTensor, tier: Tier, edges: Edges) -> Decision:
        found = tier.type_for(tensor, self._n_layer, edges)
        if found is None:
            return self._by_base(tensor, claimed=False)
        wanted, place = found
        if self._semantics == "published" and wanted is tier.base.default_type:
            skipped = f"tier {tier.name} ({place}) asks for {wanted}, the default of {tier.base}: "
            return self._by_base(tensor, f"{skipped}left to the ")
        return self._fitted(tensor, wanted, DecidedBy.TIER, f"tier {tier.name} ({place})")

    def _by_base(
        self, tensor: ClassifiedTensor, prefix: str = "", *, claimed: bool = True
    ) -> Decision:
        file_type = self._request.file_type
        if file_type is None:
            raise AssertionError("a plan of given types has no base mix")
        if self._mix is None:
            wanted = file_type.default_type
            reason = f"{prefix}default type of {file_type}"
        else:
            wanted = self._mix.select(tensor.name, tensor.info.shape)
            reason = f"{prefix}base mix {file_type}"
        return self._fitted(tensor, wanted, DecidedBy.BASE, reason, claimed=claimed)

    def _fitted(
        self,
        tensor: ClassifiedTensor,
        wanted: GgmlType,
        decided_by: DecidedBy,
        reason: str,
        rule: TensorTypeRule | None = None,
        *,
        claimed: bool = True,
    ) -> Decision:
        try:
            fitting = fit_to_rows(wanted, tensor.info.n_per_row)
        except PlanError as error:
            raise PlanError(f"{tensor.name}: {error}") from error
        if fitting is not wanted:
            reason += f"; rows of {tensor.info.n_per_row} do not fit {wanted}"
        return Decision(wanted, fitting, decided_by, reason, rule, claimed)
