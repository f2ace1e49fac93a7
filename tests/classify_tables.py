"""Tensor tables of whole models and how classify_tensors is called on them in tests."""

from __future__ import annotations

from collections.abc import Iterable

from apex_native.classification import classify_tensors
from apex_native.types import (
    Classification,
    GgmlType,
    GgufFacts,
    MetadataValue,
    Role,
    TensorInfo,
)

ATTENTION_BLOCK = {
    "attn_norm.weight": Role.NORM,
    "attn_q.weight": Role.ATTENTION,
    "attn_k.weight": Role.ATTENTION,
    "attn_v.weight": Role.ATTENTION,
    "attn_output.weight": Role.ATTENTION,
}
MODEL_ENDS = {
    "token_embd.weight": Role.EMBEDDING,
    "output_norm.weight": Role.NORM,
    "output.weight": Role.OUTPUT,
}


def classify(
    names: Iterable[str], architecture: str = "llama", **metadata: MetadataValue
) -> Classification:
    """Classifies tensors of these names; metadata keys get the architecture in front."""
    facts = GgufFacts(
        metadata={
            "general.architecture": architecture,
            **{f"{architecture}.{key}": value for key, value in metadata.items()},
        },
        tensors=tuple(TensorInfo(name, (4, 256), GgmlType.BF16, 2048) for name in names),
        kv_sizes={},
    )
    return classify_tensors(facts)


def in_blocks(blocks: Iterable[int], roles: dict[str, Role]) -> dict[str, Role]:
    """The same tensors in several blocks."""
    return {f"blk.{block}.{name}": role for block in blocks for name, role in roles.items()}


def assert_exactly(
    result: Classification, expected: dict[str, Role], mtp_blocks: frozenset[int] = frozenset()
) -> None:
    """Compares role, layer and is_mtp of all tensors, each derived from its name here."""
    assert {tensor.name: tensor.role for tensor in result.tensors} == expected
    for tensor in result.tensors:
        in_block = tensor.name.startswith("blk.")
        layer = int(tensor.name.split(".")[1]) if in_block else None
        assert tensor.layer == layer, tensor.name
        assert tensor.is_mtp == (layer in mtp_blocks), tensor.name
        assert tensor.rule, tensor.name


QWEN35_FFN = {
    "post_attention_norm.weight": Role.NORM,
    "ffn_gate_inp.weight": Role.ROUTER,
    "ffn_gate_inp_shexp.weight": Role.ROUTER,
    "ffn_gate_exps.weight": Role.EXPERT_GATE,
    "ffn_up_exps.weight": Role.EXPERT_UP,
    "ffn_down_exps.weight": Role.EXPERT_DOWN,
    "ffn_gate_shexp.weight": Role.SHARED_EXPERT,
    "ffn_up_shexp.weight": Role.SHARED_EXPERT,
    "ffn_down_shexp.weight": Role.SHARED_EXPERT,
}
QWEN35_FULL = {
    **ATTENTION_BLOCK,
    "attn_q_norm.weight": Role.NORM,
    "attn_k_norm.weight": Role.NORM,
    **QWEN35_FFN,
}
QWEN35_LINEAR = {
    "attn_norm.weight": Role.NORM,
    "attn_qkv.weight": Role.ATTENTION,
    "attn_gate.weight": Role.ATTENTION,
    "ssm_conv1d.weight": Role.SSM,
    "ssm_dt.bias": Role.SSM,
    "ssm_a": Role.SSM,
    "ssm_alpha.weight": Role.SSM,
    "ssm_beta.weight": Role.SSM,
    "ssm_norm.weight": Role.NORM,
    "ssm_out.weight": Role.SSM,
    **QWEN35_FFN,
}
NEXTN = {
    f"nextn.{name}.weight": Role.MTP
    for name in ("eh_proj", "enorm", "hnorm", "shared_head_norm", "shared_head_head")
}
QWEN35 = {
    **MODEL_ENDS,
    **in_blocks((block for block in range(40) if block % 4 != 3), QWEN35_LINEAR),
    **in_blocks(range(3, 40, 4), QWEN35_FULL),
    **in_blocks([40], {**QWEN35_FULL, **NEXTN}),
}
