"""Exact sizes of whole files, against files and tables that others made."""

from __future__ import annotations

import pytest

from apex_native.gguf_layout import layout_file
from apex_native.plan import Plan, make_plan
from apex_native.types import GgmlType, Role
from plan_tables import BOOL, I32, STRING, U32, Table, qwen35_35b

GIB = 2**30


def bytes_without_provenance(plan: Plan) -> int:
    """Size of the file without our own apex.* keys: what llama-quantize would write."""
    own = sum(entry.nbytes for entry in plan.metadata if entry.key.startswith("apex."))
    return layout_file(plan.tensors, plan.kv_bytes - own).total_bytes


# Sizes of the published files of Qwen3.5-35B-A3B in GiB (model card of the APEX files). They were
# made by a llama-quantize that left rules equal to the base mix's default type to the mix; the
# same rules applied literally give 15.4 and 11.7 GiB for compact and mini.
PUBLISHED_GIB = {
    ("ftype", "F16"): 64.6,
    ("ftype", "Q8_0"): 34.4,
    ("tier", "quality"): 21.3,
    ("tier", "balanced"): 23.6,
    ("tier", "compact"): 16.1,
    ("tier", "mini"): 12.2,
}

# "quant size" in MiB as llama-quantize --dry-run prints it for this very table, the tiers given as
# one rule per tensor (tests/parity/compare_mix.py), and the whole file to the byte.
LLAMA_QUANTIZE_MIB = {
    ("ftype", "F16", "published"): (66152.24, 69365695392),
    ("ftype", "Q8_0", "published"): (35183.10, 36892197792),
    ("ftype", "Q4_K_M", "published"): (20175.71, 21155816352),
    ("tier", "quality", "published"): (21751.80, 22808460256),
    ("tier", "quality", "declared"): (21751.80, 22808460256),
    ("tier", "balanced", "published"): (24151.80, 25325042656),
    ("tier", "balanced", "declared"): (24151.80, 25325042656),
    ("tier", "compact", "published"): (16481.49, 17282147296),
    ("tier", "compact", "declared"): (15762.20, 16527909856),
    ("tier", "mini", "published"): (12462.86, 13068304352),
    ("tier", "mini", "declared"): (11992.85, 12575465440),
    ("tier", "nano", "published"): (11502.86, 12061671392),
    ("tier", "nano", "declared"): (11032.85, 11568832480),
    ("tier", "micro", "published"): (10662.86, 11180867552),
    ("tier", "micro", "declared"): (10192.85, 10688028640),
}


def plan_35b(base: str, name: str, semantics: str = "published") -> Plan:
    table = qwen35_35b()
    return make_plan(table.classification, **{base: name}, semantics=semantics)


@pytest.mark.parametrize("base", PUBLISHED_GIB)
def test_sizes_of_the_published_files(base) -> None:
    # Quality is 21.24 by this table and by llama-quantize; the card says 21.3 (reason unknown).
    assert plan_35b(*base).total_bytes / GIB == pytest.approx(PUBLISHED_GIB[base], abs=0.06)


@pytest.mark.parametrize("base", LLAMA_QUANTIZE_MIB)
def test_sizes_llama_quantize_predicts(base) -> None:
    plan = plan_35b(*base)
    mib, total_bytes = LLAMA_QUANTIZE_MIB[base]
    assert round(plan.tensor_bytes / 2**20, 2) == mib
    assert plan.total_bytes == total_bytes


def demo_model() -> Table:
    """The trained demo model: Qwen3.5-MoE architecture, 8 layers, 8 experts, BF16, vocabulary 4096.

    Its vocabulary is replaced by one array of the same encoded size.
    """
    table = Table("qwen35moe", 8, weight_type=GgmlType.BF16)
    table.set("general.type", STRING, "model")
    table.set("general.name", STRING, "D")
    table.set("general.size_label", STRING, "8x7.4M")
    table.hparams(
        context_length=4096, embedding_length=256, attention__head_count=4,
        attention__head_count_kv=2, rope__freq_base=1e5, attention__layer_norm_rms_epsilon=1e-6,
        expert_count=8, expert_used_count=2, attention__key_length=64, attention__value_length=64,
        expert_feed_forward_length=256, expert_shared_feed_forward_length=256,
        ssm__conv_kernel=4, ssm__state_size=64, ssm__group_count=2, ssm__time_step_rank=4,
        ssm__inner_size=256, full_attention_interval=4, rope__dimension_count=16,
    )  # fmt: skip
    table.set("qwen35moe.rope.dimension_sections", I32, (3, 3, 2, 0))
    recurrent = tuple(layer % 4 != 3 for layer in range(8))
    table.set("qwen35moe.attention.recurrent_layers", BOOL, recurrent)
    table.set("general.file_type", U32, 32)
    table.set("general.quantization_version", U32, 2)
    # tokenizer.* of the real file: 44+44+52924+16433+54195+43+43+47+41+192 bytes of pairs.
    table.set("tokenizer.stand_in", STRING, "x" * (124006 - 8 - len("tokenizer.stand_in") - 4 - 8))
    table.add("output.weight", (256, 4096), Role.OUTPUT)
    table.add("token_embd.weight", (256, 4096), Role.EMBEDDING)
    table.add("output_norm.weight", (256,), Role.NORM)
    for layer in range(8):
        _add_demo_layer(table, layer)
    return table


def _add_demo_layer(table: Table, layer: int) -> None:
    blk, f32 = f"blk.{layer}.", GgmlType.F32
    for norm in ("attn_norm", "post_attention_norm"):
        table.add(f"{blk}{norm}.weight", (256,), Role.NORM)
    if layer % 4 == 3:
        table.add(f"{blk}attn_q.weight", (256, 512), Role.ATTENTION)
        table.add(f"{blk}attn_k.weight", (256, 128), Role.ATTENTION)
        table.add(f"{blk}attn_v.weight", (256, 128), Role.ATTENTION)
        table.add(f"{blk}attn_output.weight", (256, 256), Role.ATTENTION)
        table.add(f"{blk}attn_q_norm.weight", (64,), Role.NORM)
        table.add(f"{blk}attn_k_norm.weight", (64,), Role.NORM)
    else:
        table.add(f"{blk}attn_qkv.weight", (256, 512), Role.ATTENTION)
        table.add(f"{blk}attn_gate.weight", (256, 256), Role.ATTENTION)
        table.add(f"{blk}ssm_out.weight", (256, 256), Role.SSM)
        table.add(f"{blk}ssm_alpha.weight", (256, 4), Role.SSM)
        table.add(f"{blk}ssm_beta.weight", (256, 4), Role.SSM)
        table.add(f"{blk}ssm_conv1d.weight", (4, 512), Role.SSM, f32)
        table.add(f"{blk}ssm_a", (4,), Role.SSM)
        table.add(f"{blk}ssm_dt.bias", (4,), Role.SSM)
        table.add(f"{blk}ssm_norm.weight", (64,), Role.NORM)
    table.add(f"{blk}ffn_gate_inp.weight", (256, 8), Role.ROUTER, f32)
    table.add(f"{blk}ffn_gate_inp_shexp.weight", (256,), Role.ROUTER)
    for part, role in (
        ("gate", Role.EXPERT_GATE), ("up", Role.EXPERT_UP), ("down", Role.EXPERT_DOWN)
    ):  # fmt: skip
        table.add(f"{blk}ffn_{part}_exps.weight", (256, 256, 8), role)
        table.add(f"{blk}ffn_{part}_shexp.weight", (256, 256), Role.SHARED_EXPERT)


# Sizes of the files that llama-quantize of the pinned llama.cpp wrote from the demo model.
LLAMA_QUANTIZE_BYTES = {
    ("ftype", "Q8_0"): 19787840,
    ("ftype", "Q6_K"): 15563200,
    ("ftype", "Q5_K_M"): 13698624,
    ("ftype", "Q4_K_M"): 11960384,
    ("ftype", "MXFP4_MOE"): 13103168,
    ("ftype", "TQ1_0"): 5940160,
    ("ftype", "Q1_0"): 4418752,
    ("ftype", "Q2_K"): 8019392,
    ("ftype", "F16"): 37002560,
    ("ftype", "F32"): 73727296,
    ("ftype", "COPY"): 37002560,
    ("tier", "balanced"): 14468544,
    ("tier", "quality"): 13485504,
    ("tier", "compact"): 10029120,
}


@pytest.mark.parametrize("base", LLAMA_QUANTIZE_BYTES)
def test_sizes_of_files_that_llama_quantize_wrote(base) -> None:
    kind, name = base
    table = demo_model()
    plan = make_plan(table.classification, **{kind: name}, semantics="declared")
    assert bytes_without_provenance(plan) == LLAMA_QUANTIZE_BYTES[base]


def test_bits_per_weight_are_those_llama_quantize_prints() -> None:
    # llama-quantize --dry-run demo Q4_K_M: "quant size = 11.28 MiB (5.14 BPW)".
    table = demo_model()
    plan = make_plan(table.classification, ftype="Q4_K_M")
    assert round(plan.tensor_bytes / 2**20, 2) == 11.28
    assert round(plan.bpw, 2) == 5.14
    assert sum(row.nbytes for row in plan.summary_by_role()) == plan.tensor_bytes
