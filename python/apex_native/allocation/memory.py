"""What a model needs in memory beside its weights, from its tensor table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_native.classification import classify_tensors
from apex_native.engine import UBATCH
from apex_native.types import GgmlType, GgufFacts, Role

__all__ = ["BesideModel", "memory_beside_model"]

_FLOAT = 4


@dataclass(frozen=True, slots=True)
class BesideModel:
    """Bytes of the KV cache with recurrent state, and of the buffers of a computation."""

    cache: int
    buffers: int

    @property
    def total(self) -> int:
        """Both."""
        return self.cache + self.buffers


def memory_beside_model(
    facts: GgufFacts, *, ctx: int, type_k: GgmlType, type_v: GgmlType
) -> BesideModel:
    """KV cache of ctx tokens in one sequence, recurrent state, compute buffers.

    The cache is exact where each layer has its own K and V (rows of attn_k and attn_v, or of fused
    projections as the metadata divide them); sliding windows count as whole contexts. Buffers are
    estimated: logits and the widest activations of `UBATCH` tokens.
    """
    arch = facts.architecture
    values = {key.removeprefix(f"{arch}."): value for key, value in facts.metadata.items()}
    rows_k = rows_v = 0
    for tensor in classify_tensors(facts).tensors:
        if tensor.role is not Role.ATTENTION or tensor.is_mtp:
            continue
        part = tensor.name.split(".")[-2]
        rows = tensor.info.shape[0]
        if part == "attn_k":
            rows_k += rows
        elif part == "attn_v":
            rows_v += rows
        elif part == "attn_kv_a_mqa":  # latent attention keeps one row for K and V together
            rows_k += rows
    cache = ctx * (_row(rows_k, type_k) + _row(rows_v, type_v)) + _state(facts, values)
    widest = max((t.shape[0] for t in facts.tensors if len(t.shape) == 2), default=0)
    n_embd = _int(values.get("embedding_length"))
    used = max(1, _int(values.get("expert_used_count")))
    ffn = max(
        _int(values.get("feed_forward_length")), _int(values.get("expert_feed_forward_length"))
    )
    buffers = UBATCH * _FLOAT * (widest + 8 * n_embd + 3 * used * max(ffn, n_embd))
    return BesideModel(cache, buffers)


def _row(n: int, type: GgmlType) -> int:
    return -(-n // type.block_size) * type.block_bytes


def _state(facts: GgufFacts, values: Mapping[str, object]) -> int:
    """Of recurrent layers, one sequence, F32: convolution window and state matrix."""
    n_layers = sum(1 for tensor in facts.tensors if tensor.name.endswith(".ssm_conv1d.weight"))
    inner, state = _int(values.get("ssm.inner_size")), _int(values.get("ssm.state_size"))
    groups, window = _int(values.get("ssm.group_count")), _int(values.get("ssm.conv_kernel"))
    per_layer = inner * state + max(window - 1, 0) * (inner + 2 * groups * state)
    return n_layers * per_layer * _FLOAT


def _int(value: object) -> int:
    if isinstance(value, tuple):
        return max((int(v) for v in value if isinstance(v, int)), default=0)
    return value if isinstance(value, int) else 0
