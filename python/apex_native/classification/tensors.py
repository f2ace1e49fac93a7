"""From tensor table to `Classification`: every name looked up, every doubt a warning."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from ..types import Classification, ClassifiedTensor, GgufFacts, Role, TensorInfo
from .depth import find_depth
from .hparams import read_max_count
from .names import TensorName, parse_name
from .roles import SHARED_BESIDE_EXPERTS, Rule, find_rule

__all__ = ["classify_tensors"]

# Every token passes these beside the chosen experts, in the same block: what other architectures
# call a shared expert (build_graph of gemma4, grok and arctic in llama.cpp's src/models). Elsewhere
# a block has dense weights or experts, and never both.
_DENSE_BESIDE_EXPERTS = frozenset({"gemma4", "grok", "arctic"})

# A warning lists this many names in full; of more it gives the first and the last.
_NAMES_LISTED = 4


def classify_tensors(facts: GgufFacts) -> Classification:
    """The role, layer and rule of every tensor, in file order.

    ``layer`` is the block index inside ``blk``, ``enc.blk`` and ``dec.blk``; encoders of images
    and audio number their own blocks, so their tensors have none. ``is_mtp`` is set for tensors
    that only multi-token prediction has and for all tensors of blocks past the trunk.
    ``n_expert`` and ``n_expert_used`` are those of the metadata, 0 if absent.

    Args:
        facts: Metadata and tensor table of a GGUF file; nothing else is read.

    Raises:
        GgufError: A count in the metadata is not a count, ``block_count`` is out of range, or
            ``nextn_predict_layers`` exceeds it.
    """
    names = [parse_name(info.name) for info in facts.tensors]
    depth = find_depth(facts, names)
    beside = _blocks_with_experts(names) if facts.architecture in _DENSE_BESIDE_EXPERTS else set()
    tensors = tuple(
        _classify(info, name, depth.n_layer, beside)
        for info, name in zip(facts.tensors, names, strict=True)
    )
    n_expert = read_max_count(facts.metadata, f"{facts.architecture}.expert_count")
    return Classification(
        facts=facts,
        n_layer=depth.n_layer,
        n_layer_all=depth.n_layer_all,
        tensors=tensors,
        n_expert=n_expert,
        n_expert_used=read_max_count(facts.metadata, f"{facts.architecture}.expert_used_count"),
        warnings=(
            *depth.warnings,
            *_expert_warnings(tensors, n_expert),
            *_unclaimed_warnings(tensors, names),
        ),
    )


def _blocks_with_experts(names: Sequence[TensorName]) -> set[int]:
    found = set()
    for name in names:
        rule = find_rule(name.base, in_block=True) if name.layer is not None else None
        if rule is not None and rule.role.is_routed_expert and name.layer is not None:
            found.add(name.layer)
    return found


def _rule_of(name: TensorName, beside_experts: AbstractSet[int]) -> Rule | None:
    rule = find_rule(name.base, in_block=name.layer is not None)
    if name.layer in beside_experts and name.base in SHARED_BESIDE_EXPERTS.names.split():
        return SHARED_BESIDE_EXPERTS
    return rule


def _classify(
    info: TensorInfo, name: TensorName, n_layer: int, beside_experts: AbstractSet[int]
) -> ClassifiedTensor:
    rule = _rule_of(name, beside_experts)
    role = Role.OTHER if rule is None else rule.role
    # Only blk counts the trunk's layers: T5's decoder (dec.blk) may be deeper than block_count.
    past_trunk = name.stack == "blk" and name.layer is not None and name.layer >= n_layer
    return ClassifiedTensor(
        info=info,
        role=role,
        layer=name.layer,
        is_mtp=past_trunk or role is Role.MTP,
        rule="" if rule is None else rule.name,
    )


def _expert_warnings(tensors: Sequence[ClassifiedTensor], n_expert: int) -> tuple[str, ...]:
    """Metadata and tensor table must agree on whether there are experts.

    An expert recipe that silently matches nothing is the costliest mistake here. One expert is
    none: dense Hunyuan files declare it, and llama.cpp reads it as 0 (``load_hparams``).
    """
    n_routed = sum(tensor.role.is_routed_expert for tensor in tensors)
    if n_routed and not n_expert:
        return (f"{n_routed} routed expert tensors, but the metadata has no expert_count",)
    if n_expert > 1 and not n_routed:
        return (f"the metadata counts {n_expert} experts, but no routed expert tensor was found",)
    return ()


def _unclaimed_warnings(
    tensors: Sequence[ClassifiedTensor], names: Sequence[TensorName]
) -> tuple[str, ...]:
    """One warning for each unknown kind of tensor, not for each of its layers."""
    unclaimed: dict[str, list[str]] = {}
    for tensor, name in zip(tensors, names, strict=True):
        if not tensor.rule:
            unclaimed.setdefault(name.pattern, []).append(tensor.name)
    return tuple(
        f"unknown tensor name {_listed(found)}: role 'other', no rule by role matches it"
        for found in unclaimed.values()
    )


def _listed(found: Sequence[str]) -> str:
    if len(found) <= _NAMES_LISTED:
        return ", ".join(f"'{name}'" for name in found)
    return f"'{found[0]}' to '{found[-1]}' ({len(found)} tensors)"
