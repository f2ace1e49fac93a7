"""classify_tensors on whole models: exact roles, layers, depth, MTP and warnings."""

from __future__ import annotations

from collections import Counter

import pytest

from apex_native.types import (
    Role,
)
from classify_tables import (
    ATTENTION_BLOCK,
    MODEL_ENDS,
    QWEN35,
    assert_exactly,
    classify,
    in_blocks,
)


def test_qwen35moe_with_one_mtp_layer() -> None:
    result = classify(
        QWEN35,
        "qwen35moe",
        block_count=41,
        nextn_predict_layers=1,
        expert_count=256,
        expert_used_count=8,
    )
    assert_exactly(result, QWEN35, mtp_blocks=frozenset({40}))
    assert (result.n_layer, result.n_layer_all) == (40, 41)
    assert (result.n_expert, result.n_expert_used) == (256, 8)
    assert result.architecture == "qwen35moe"
    assert result.warnings == ()


def test_tensors_keep_the_order_of_the_file() -> None:
    names = sorted(QWEN35, reverse=True)
    result = classify(names, "qwen35moe", block_count=41, nextn_predict_layers=1, expert_count=256)
    assert [tensor.name for tensor in result.tensors] == names


def test_deepseek2_with_leading_dense_blocks_and_latent_attention() -> None:
    attention = {
        "attn_norm.weight": Role.NORM,
        "attn_q_a.weight": Role.ATTENTION,
        "attn_q_a_norm.weight": Role.NORM,
        "attn_q_b.weight": Role.ATTENTION,
        "attn_kv_a_mqa.weight": Role.ATTENTION,
        "attn_kv_a_norm.weight": Role.NORM,
        "attn_k_b.weight": Role.ATTENTION,
        "attn_v_b.weight": Role.ATTENTION,
        "attn_output.weight": Role.ATTENTION,
        "ffn_norm.weight": Role.NORM,
    }
    dense = {f"ffn_{name}.weight": Role.DENSE_FFN for name in ("gate", "up", "down")}
    sparse = {
        "ffn_gate_inp.weight": Role.ROUTER,
        "exp_probs_b.bias": Role.ROUTER,
        "ffn_gate_exps.weight": Role.EXPERT_GATE,
        "ffn_up_exps.weight": Role.EXPERT_UP,
        "ffn_down_exps.weight": Role.EXPERT_DOWN,
        "ffn_gate_shexp.weight": Role.SHARED_EXPERT,
        "ffn_up_shexp.weight": Role.SHARED_EXPERT,
        "ffn_down_shexp.weight": Role.SHARED_EXPERT,
    }
    expected = {
        **MODEL_ENDS,
        **in_blocks(range(3), {**attention, **dense}),
        **in_blocks(range(3, 61), {**attention, **sparse}),
        # Files from before llama.cpp split it have the unsplit matrix.
        "blk.60.attn_kv_b.weight": Role.ATTENTION,
    }
    result = classify(expected, "deepseek2", block_count=61, expert_count=256, expert_used_count=8)
    assert_exactly(result, expected)
    assert (result.n_layer, result.n_layer_all) == (61, 61)
    assert result.warnings == ()


def test_gemma4_with_fused_experts() -> None:
    block = {
        **ATTENTION_BLOCK,
        "attn_q_norm.weight": Role.NORM,
        "attn_k_norm.weight": Role.NORM,
        "post_attention_norm.weight": Role.NORM,
        "ffn_norm.weight": Role.NORM,
        "ffn_gate.weight": Role.SHARED_EXPERT,
        "ffn_up.weight": Role.SHARED_EXPERT,
        "ffn_down.weight": Role.SHARED_EXPERT,
        "ffn_gate_inp.weight": Role.ROUTER,
        "ffn_gate_inp.scale": Role.ROUTER,
        "ffn_gate_up_exps.weight": Role.EXPERT_GATE_UP,
        "ffn_down_exps.weight": Role.EXPERT_DOWN,
        "ffn_down_exps.scale": Role.EXPERT_DOWN,
        "pre_ffw_norm_2.weight": Role.NORM,
        "post_ffw_norm.weight": Role.NORM,
        "post_ffw_norm_1.weight": Role.NORM,
        "post_ffw_norm_2.weight": Role.NORM,
        "layer_output_scale.weight": Role.OTHER,
        "inp_gate.weight": Role.OTHER,
        "proj.weight": Role.OTHER,
        "post_norm.weight": Role.NORM,
    }
    expected = {
        "token_embd.weight": Role.EMBEDDING,
        "output_norm.weight": Role.NORM,
        "rope_freqs.weight": Role.OTHER,
        "per_layer_token_embd.weight": Role.EMBEDDING,
        "per_layer_model_proj.weight": Role.OTHER,
        "per_layer_proj_norm.weight": Role.NORM,
        **in_blocks(range(30), block),
    }
    result = classify(expected, "gemma4", block_count=30, expert_count=128, expert_used_count=8)
    assert_exactly(result, expected)
    assert (result.n_layer, result.n_layer_all) == (30, 30)
    assert result.warnings == ()


# What the graphs of llama.cpp's src/models do with names that can mean two things: architecture,
# names of one block, roles of the names that could be mistaken.
FROM_THE_GRAPHS = [
    ("gemma4", "ffn_gate ffn_up ffn_down ffn_gate_up_exps", "ffn_up", Role.SHARED_EXPERT),
    ("grok", "ffn_gate ffn_up ffn_down ffn_up_exps", "ffn_gate", Role.SHARED_EXPERT),
    ("arctic", "ffn_gate ffn_up ffn_down ffn_up_exps", "ffn_down", Role.SHARED_EXPERT),
    ("gemma4", "ffn_gate ffn_up ffn_down", "ffn_up", Role.DENSE_FFN),
    ("deepseek2", "ffn_gate ffn_up ffn_down", "ffn_up", Role.DENSE_FFN),
    ("lfm2moe", "ffn_gate ffn_up ffn_down", "ffn_down", Role.DENSE_FFN),
    ("qwen3next", "ssm_in ssm_ba ffn_up_exps", "ssm_in", Role.SSM),
    ("qwen3next", "ssm_in ssm_ba ffn_up_exps", "ssm_ba", Role.SSM),
    ("nemotron_h_moe", "ssm_in ssm_out ffn_up_exps", "ssm_in", Role.SSM),
    ("deepseek4", "hc_attn_fn hc_ffn_fn ffn_up_exps", "hc_ffn_fn", Role.OTHER),
    ("qwen4exp", "hc_attn_down ple_key ple_value ffn_up_exps", "ple_key", Role.OTHER),
    ("qwen4exp", "ple_conv1d ffn_up_exps", "ple_conv1d", Role.OTHER),
    ("deepseek32", "indexer.attn_q_b indexer.proj ffn_up_exps", "indexer.proj", Role.ATTENTION),
    ("glm-dsa", "exp_probs_b ffn_gate_inp ffn_up_exps", "exp_probs_b", Role.ROUTER),
    ("hy-v4", "exp_probs_b_vl ffn_gate_inp ffn_up_exps", "exp_probs_b_vl", Role.ROUTER),
    ("nemotron_h_moe", "ffn_latent_down ffn_up_exps", "ffn_latent_down", Role.DENSE_FFN),
]


@pytest.mark.parametrize(("architecture", "block", "name", "role"), FROM_THE_GRAPHS)
def test_names_with_two_meanings_get_the_role_their_graph_gives_them(
    architecture: str, block: str, name: str, role: Role
) -> None:
    names = [f"blk.0.{base}.weight" for base in block.split()]
    result = classify(names, architecture, block_count=1, expert_count=8, expert_used_count=2)
    roles = {tensor.name: tensor.role for tensor in result.tensors}
    assert roles[f"blk.0.{name}.weight"] is role


def test_mixtral_with_one_tensor_per_expert() -> None:
    experts = {
        f"ffn_{matrix}.{expert}.weight": role
        for matrix, role in (
            ("gate", Role.EXPERT_GATE),
            ("up", Role.EXPERT_UP),
            ("down", Role.EXPERT_DOWN),
        )
        for expert in range(8)
    }
    block = {
        **ATTENTION_BLOCK,
        "ffn_norm.weight": Role.NORM,
        "ffn_gate_inp.weight": Role.ROUTER,
        **experts,
    }
    expected = {**MODEL_ENDS, **in_blocks(range(32), block)}
    result = classify(expected, "llama", block_count=32, expert_count=8, expert_used_count=2)
    assert_exactly(result, expected)
    assert Counter(tensor.role for tensor in result.tensors)[Role.EXPERT_GATE] == 8 * 32
    assert (result.n_layer, result.n_expert, result.n_expert_used) == (32, 8, 2)
    assert result.warnings == ()


def test_parts_of_a_matrix_share_its_role() -> None:
    # gpt-oss has biases on everything, NVFP4 files a scale and an input scale.
    expected = {
        "blk.0.attn_q.bias": Role.ATTENTION,
        "blk.0.attn_sinks.weight": Role.ATTENTION,
        "blk.0.attn_output.input_scale": Role.ATTENTION,
        "blk.0.ffn_gate_inp.bias": Role.ROUTER,
        "blk.0.ffn_gate_exps.bias": Role.EXPERT_GATE,
        "blk.0.ffn_up_exps.scale": Role.EXPERT_UP,
        "blk.0.ffn_down_shexp.input_scale": Role.SHARED_EXPERT,
        "blk.0.attn_norm.bias": Role.NORM,
        "blk.0.attn_v.lora_a": Role.ATTENTION,
        "blk.0.ffn.act.scales": Role.DENSE_FFN,
        "output.scale": Role.OUTPUT,
    }
    assert_exactly(classify(expected, block_count=1, expert_count=32), expected)


@pytest.mark.parametrize(
    ("name", "role", "layer"),
    [
        # Each contains, or is contained in, the name of another role.
        ("blk.1.ffn_gate_inp.weight", Role.ROUTER, 1),
        ("blk.1.ffn_norm_exps.weight", Role.NORM, 1),
        ("blk.1.ffn_latent_down.weight", Role.DENSE_FFN, 1),
        ("blk.1.ffn_routed_norm.weight", Role.NORM, 1),
        ("blk.1.ssm_norm.weight", Role.NORM, 1),
        ("blk.1.attn_output_norm.weight", Role.NORM, 1),
        ("blk.1.attn_output_a.weight", Role.ATTENTION, 1),
        ("blk.1.indexer.k_norm.weight", Role.NORM, 1),
        ("blk.1.indexer.k_proj.weight", Role.ATTENTION, 1),
        ("blk.1.altup_router.weight", Role.OTHER, 1),
        ("blk.1.attn_rot_embd.weight", Role.OTHER, 1),
        ("blk.1.channel_mix_key.weight", Role.DENSE_FFN, 1),
        ("blk.1.time_mix_key.weight", Role.SSM, 1),
        ("enc.blk.1.attn_o.weight", Role.ATTENTION, 1),
        ("dec.blk.1.cross_attn_o.weight", Role.ATTENTION, 1),
        ("dec.blk.1.cross_attn_norm.weight", Role.NORM, 1),
        ("enc.output_norm.weight", Role.NORM, None),
        ("token_embd_norm.weight", Role.NORM, None),
        ("token_types.weight", Role.EMBEDDING, None),
        ("position_embd.weight", Role.EMBEDDING, None),
        ("cls.weight", Role.OUTPUT, None),
        ("cls.output.weight", Role.OUTPUT, None),
        ("cls.norm.weight", Role.NORM, None),
        ("v.blk.1.ffn_up_exps.weight", Role.PROJECTOR, None),
        ("mm.1.weight", Role.PROJECTOR, None),
        ("a.blk.1.attn_q.weight", Role.PROJECTOR, None),
    ],
)
def test_name_that_resembles_another_role(name: str, role: Role, layer: int | None) -> None:
    result = classify([name], block_count=2)
    (tensor,) = result.tensors
    assert (tensor.role, tensor.layer, tensor.is_mtp) == (role, layer, False)
    assert result.warnings == ()


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.ffn_gate_expz.weight",
        "blk.0.xattn_q.weight",
        "blk.0.attn_q.qweight",
        "blk.0.attn_q.weight.weight",
        "blk.0.output.weight",
        "blk.00.attn_q.weight",
        "blk.².attn_q.weight",
        "blk.attn_q.weight",
        "xblk.0.attn_q.weight",
        "attn_q.weight",
        "enc.attn_q.weight",
        "vision.attn_q.weight",
        "blk.0",
        ".",
        "",
    ],
)
def test_unknown_name_is_other_and_warned_about(name: str) -> None:
    result = classify(["blk.0.attn_k.weight", name], block_count=1)
    tensor = result.tensors[1]
    assert (tensor.name, tensor.role, tensor.rule) == (name, Role.OTHER, "")
    (warning,) = result.warnings
    assert f"unknown tensor name '{name}'" in warning


def test_unknown_tensor_of_all_layers_is_one_warning() -> None:
    names = [f"blk.{block}.ffn_mystery.weight" for block in range(12)]
    result = classify([*names, "mystery.weight"], block_count=12)
    assert [tensor.role for tensor in result.tensors] == [Role.OTHER] * 13
    many, one = result.warnings
    assert f"'{names[0]}' to '{names[-1]}' (12 tensors)" in many
    assert "'mystery.weight'" in one
