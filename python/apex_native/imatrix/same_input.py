"""Entries that serve a weight of another name, because both multiply the same input.

A converter may fuse matrices that read one input, and a matrix collected from the other form holds
the data under other names. llama.cpp computes both forms from the same tensor: gate and up of the
experts (build_moe_ffn), q, k and v (build_qkv), the two input projections of a gated delta net
(models/qwen3next.cpp). attn_kv_b and attn_k_b, attn_v_b are another case: kv_b multiplies the
compressed keys and values, k_b the query, v_b the attention's result (models/deepseek2.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from apex_native.imatrix.entries import ImatrixEntry
from apex_native.types import GgufFacts

__all__ = ["related_entries", "same_input_entries"]

_FUSED = {
    "ffn_gate_up_exps": ("ffn_gate_exps", "ffn_up_exps"),
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ssm_in": ("attn_qkv", "attn_gate"),
}
"""Weights that may be stored as one, and their parts."""

_OTHER_INPUT = (("attn_kv_b", ("attn_k_b", "attn_v_b")),)
"""The same for weights whose forms read different inputs."""


def same_input_entries(entries: Mapping[str, ImatrixEntry], facts: GgufFacts) -> dict[str, str]:
    """For each tensor without an entry whose input another entry describes exactly: which one.

    Where the parts' entries differ (of another width, or collected apart) none is taken.
    """
    found = {}
    for tensor in facts.tensors:
        if tensor.name in entries:
            continue
        for others in _other_forms(tensor.name):
            present = [name for name in others if name in entries]
            if present and _all_equal([entries[name] for name in present]):
                found[tensor.name] = present[0]
                break
    return found


def related_entries(
    entries: Mapping[str, ImatrixEntry], facts: GgufFacts, used: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """For each tensor without data, the entries of its other form that cannot stand for it."""
    found = {}
    for tensor in facts.tensors:
        if tensor.name in entries or tensor.name in used:
            continue
        forms = [*_other_forms(tensor.name), *_forms(tensor.name, _OTHER_INPUT)]
        names = tuple(name for others in forms for name in others if name in entries)
        if names:
            found[tensor.name] = names
    return found


def _other_forms(name: str) -> Iterator[tuple[str, ...]]:
    return _forms(name, tuple(_FUSED.items()))


def _forms(name: str, pairs: tuple[tuple[str, tuple[str, ...]], ...]) -> Iterator[tuple[str, ...]]:
    prefix, dot, rest = name.rpartition(".")  # blk.3.attn_q, weight
    block, _, base = prefix.rpartition(".")
    for fused, parts in pairs:
        if base == fused:
            yield tuple(f"{block}.{part}{dot}{rest}" for part in parts)
        elif base in parts:
            yield (f"{block}.{fused}{dot}{rest}",)


def _all_equal(entries: list[ImatrixEntry]) -> bool:
    first = entries[0]
    return all(
        np.array_equal(first.sums, other.sums) and np.array_equal(first.counts, other.counts)
        for other in entries[1:]
    )
