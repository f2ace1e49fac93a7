"""Is the model whole? Promised blocks, the tensors their siblings have, the embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from apex_native.plan.parts import Finding, FindingKind
from apex_native.plan.repair import missing_mtp_layers
from apex_native.printable import counted
from apex_native.types import Classification, GgufFacts

__all__ = ["model_findings"]

_GROUPS = (
    ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps", "ffn_gate_inp"),
    ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
    ("ffn_gate", "ffn_up", "ffn_down"),
    ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"),
    ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b"),
    ("ssm_in", "ssm_out", "ssm_x", "ssm_dt", "ssm_alpha", "ssm_beta", "ssm_conv1d"),
)
"""Weights that a block has all of or none of, in one of the forms an architecture allows."""

_ROUTERS = frozenset({"ffn_gate_inp", "ffn_gate_tid2eid"})

_WITHOUT_EMBEDDING = frozenset({"eagle3", "dflash", "dspark"})
"""Draft models that take their embeddings from the model they draft for."""

_RARE = 8
"""A form is an oversight where another that has more is this many times as common."""


def model_findings(
    classification: Classification, facts: GgufFacts, *, repairs: bool = False
) -> Iterator[Finding]:
    """Findings about a file whose own metadata or layers say that something is missing.

    repairs: promised layers that are missing are taken out of the counts.
    """
    bases = _bases_by_layer(classification)
    if not bases:
        return
    yield from _missing_blocks(classification, bases)
    yield from _promised_mtp(classification, facts, repairs=repairs)
    for group in _GROUPS:
        yield from _unlike_siblings(group, classification.n_layer, bases)
    yield from _without_router(bases)
    names = {tensor.name for tensor in facts.tensors}
    has_trunk = any(layer < classification.n_layer for layer in bases)
    drafts = facts.architecture in _WITHOUT_EMBEDDING
    if has_trunk and "token_embd.weight" not in names and not drafts:
        message = "the model has no token_embd.weight: llama.cpp will not load it"
        yield Finding(FindingKind.INCOMPLETE_MODEL, "", message)


def _bases_by_layer(classification: Classification) -> dict[int, set[str]]:
    """The weights of each block by the middle of their names: blk.3.attn_q.weight is attn_q."""
    bases: dict[int, set[str]] = {}
    for tensor in classification.tensors:
        stack, _, rest = tensor.name.partition(".")
        if stack != "blk" or tensor.layer is None:
            continue
        base, _, part = rest.partition(".")[2].rpartition(".")
        found = bases.setdefault(tensor.layer, set())
        if part == "weight":
            found.add(base)
    return bases


def _missing_blocks(
    classification: Classification, bases: Mapping[int, set[str]]
) -> Iterator[Finding]:
    n_layer = classification.n_layer
    missing = [layer for layer in range(n_layer) if layer not in bases]
    if missing and len(missing) < n_layer:
        message = (
            f"the metadata counts {n_layer} layers, {_listed(missing)} "
            f"{'has' if len(missing) == 1 else 'have'} no tensors: llama.cpp will not load it"
        )
        yield Finding(FindingKind.INCOMPLETE_MODEL, "", message)


def _promised_mtp(
    classification: Classification, facts: GgufFacts, *, repairs: bool
) -> Iterator[Finding]:
    missing = missing_mtp_layers(classification)
    if not missing:
        return
    n_promised = classification.n_layer_all - classification.n_layer
    left = n_promised - len(missing)
    key = f"{facts.architecture}.nextn_predict_layers"
    promise = (
        f"{key} promises {counted(n_promised, 'layer')} for multi-token "
        f"prediction, {_listed(missing)} {'has' if len(missing) == 1 else 'have'} no tensors"
    )
    counts = f"block_count {classification.n_layer + left} and nextn_predict_layers {left}"
    if repairs:
        yield Finding(FindingKind.REPAIRED, "", f"{promise}: written with {counts}")
    else:
        message = f"{promise}: llama.cpp will not load it; `repair=True` writes {counts}"
        yield Finding(FindingKind.PROMISED_LAYERS, "", message)


def _unlike_siblings(
    group: Sequence[str], n_layer: int, bases: Mapping[int, set[str]]
) -> Iterator[Finding]:
    """Blocks that lack a weight which nearly all blocks with the others have."""
    members = frozenset(group)
    forms = {
        layer: frozenset(found & members)
        for layer, found in bases.items()
        if layer < n_layer and found & members
    }
    counts = Counter(forms.values())
    for layer, form in sorted(forms.items()):
        fuller = [other for other in counts if other > form]
        best = max(fuller, key=lambda other: counts[other], default=None)
        if best is not None and counts[form] <= max(1, counts[best] // _RARE):
            lacking = " and ".join(sorted(best - form))
            message = (
                f"layer {layer} has no {lacking}, {counts[best]} other layers do: llama.cpp will "
                "not load it"
            )
            yield Finding(FindingKind.INCOMPLETE_MODEL, f"blk.{layer}", message)


def _without_router(bases: Mapping[int, set[str]]) -> Iterator[Finding]:
    lacking = [
        layer
        for layer, found in sorted(bases.items())
        if any(base.endswith("_exps") for base in found) and not found & _ROUTERS
    ]
    if lacking:
        message = f"the experts of {_listed(lacking)} have no router: llama.cpp will not load it"
        yield Finding(FindingKind.INCOMPLETE_MODEL, "", message)


def _listed(layers: Sequence[int]) -> str:
    """Layers 3 to 5, or layers 2, 3 and 7."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if all(b == a + 1 for a, b in pairwise(layers)):
        return f"layers {layers[0]} to {layers[-1]}"
    shown = ", ".join(str(layer) for layer in layers[:6])
    return f"layers {shown}" + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
