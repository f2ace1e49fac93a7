"""classify_tensors on whole models: exact roles, layers, depth, MTP and warnings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import pytest

from apex_native.classify import classify_tensors
from apex_native.errors import GgufError
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
        "ffn_gate.weight": Role.DENSE_FFN,
        "ffn_up.weight": Role.DENSE_FFN,
        "ffn_down.weight": Role.DENSE_FFN,
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


def test_missing_block_count_is_derived_from_the_names() -> None:
    result = classify([f"blk.{block}.attn_q.weight" for block in (0, 3, 1)])
    assert (result.n_layer, result.n_layer_all) == (4, 4)
    (warning,) = result.warnings
    assert "'llama.block_count' is missing" in warning
    assert "depth 4" in warning


def test_missing_architecture_is_named() -> None:
    facts = GgufFacts({}, (TensorInfo("blk.0.ssm_a", (1, 32), GgmlType.F32, 128),), {})
    result = classify_tensors(facts)
    assert (result.architecture, result.n_layer) == ("", 1)
    assert "'general.architecture' is missing" in result.warnings[0]


def test_missing_nextn_count_is_derived_from_trailing_blocks() -> None:
    names = [
        *(f"blk.{block}.attn_q.weight" for block in range(6)),
        *(f"blk.{block}.nextn.eh_proj.weight" for block in (1, 4, 5)),
    ]
    result = classify(names, "glm4moe", block_count=6)
    assert (result.n_layer, result.n_layer_all) == (4, 6)
    assert [tensor.is_mtp for tensor in result.tensors] == [False] * 4 + [True] * 5
    (warning,) = result.warnings
    assert "'glm4moe.nextn_predict_layers' is missing: blocks 4 to 5" in warning


def test_trunk_is_the_same_where_the_mtp_block_was_left_out() -> None:
    # llama.cpp loads such files ('trunk_only'): block_count still counts the MTP block.
    names = [f"blk.{block}.attn_q.weight" for block in range(4)]
    result = classify(names, "glm4moe", block_count=5, nextn_predict_layers=1)
    assert (result.n_layer, result.n_layer_all, result.warnings) == (4, 5, ())


@pytest.mark.parametrize(("has_projection", "n_layer"), [(True, 4), (False, 5)])
def test_deepseek4_counts_mtp_only_with_its_projection(has_projection: bool, n_layer: int) -> None:
    names = [f"blk.{block}.attn_q_a.weight" for block in range(5)]
    if has_projection:
        names.append("blk.4.nextn.eh_proj.weight")
    result = classify(names, "deepseek4", block_count=5, nextn_predict_layers=1)
    assert (result.n_layer, result.n_layer_all) == (n_layer, 5)
    assert result.tensors[4].is_mtp == has_projection


def test_draft_model_has_no_trunk() -> None:
    names = ["nextn.post_projection.weight", "blk.0.attn_q.weight", "blk.3.attn_q.weight"]
    result = classify(names, "gemma4-assistant", block_count=4, nextn_predict_layers=4)
    assert (result.n_layer, result.n_layer_all) == (0, 4)
    assert all(tensor.is_mtp for tensor in result.tensors)
    assert "draft model" in result.warnings[0]


def test_block_past_block_count_is_warned_about() -> None:
    result = classify(["blk.0.attn_q.weight", "blk.61.attn_q.weight"], block_count=61)
    assert [tensor.is_mtp for tensor in result.tensors] == [False, True]
    (warning,) = result.warnings
    assert "block 61 exists" in warning


def test_decoder_deeper_than_block_count_is_not_mtp() -> None:
    # T5's block_count is the encoder's depth.
    result = classify(["enc.blk.1.attn_q.weight", "dec.blk.5.attn_q.weight"], "t5", block_count=2)
    assert [(tensor.layer, tensor.is_mtp) for tensor in result.tensors] == [(1, False), (5, False)]
    assert result.warnings == ()


def test_encoder_file_has_no_depth() -> None:
    result = classify(["v.blk.26.attn_q.weight", "mm.0.weight"], "clip")
    assert (result.n_layer, result.n_layer_all) == (0, 0)
    assert {tensor.role for tensor in result.tensors} == {Role.PROJECTOR}


def test_experts_used_per_layer_give_the_maximum() -> None:
    result = classify(
        ["blk.0.ffn_up_exps.weight"],
        "granitemoe",
        block_count=3,
        expert_count=64,
        expert_used_count=(4, 8, 6),
    )
    assert (result.n_expert, result.n_expert_used) == (64, 8)


def test_experts_that_do_not_match_the_metadata_are_warned_about() -> None:
    without_count = classify(["blk.0.ffn_up_exps.weight"], block_count=1)
    assert without_count.warnings == (
        "1 routed expert tensors, but the metadata has no expert_count",
    )
    without_tensors = classify(["blk.0.ffn_up.weight"], block_count=1, expert_count=8)
    assert "8 experts, but no routed expert tensor" in without_tensors.warnings[0]
    dense_hunyuan = classify(["blk.0.ffn_up.weight"], block_count=1, expert_count=1)
    assert dense_hunyuan.warnings == ()


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("block_count", 0, "found 0"),
        ("block_count", 513, "found 513"),
        ("block_count", -1, "found -1"),
        ("block_count", "40", "found '40'"),
        ("block_count", True, "found True"),
        ("block_count", (40, 40), "found an array of 2"),
        ("nextn_predict_layers", 5, "found 5"),
        ("nextn_predict_layers", 1.0, "found 1.0"),
        ("expert_count", "many", "found 'many'"),
        ("expert_used_count", (8, -8), "found -8"),
    ],
)
def test_count_that_is_none_is_refused(key: str, value: MetadataValue, found: str) -> None:
    metadata: dict[str, MetadataValue] = {"block_count": 4, key: value}
    with pytest.raises(GgufError, match=f"'llama.{key}': expected .*{found}"):
        classify(["blk.0.attn_q.weight"], "llama", **metadata)


def test_derived_depth_is_limited_like_block_count() -> None:
    assert classify(["blk.511.attn_q.weight"]).n_layer == 512
    with pytest.raises(GgufError, match="block 512 was found"):
        classify(["blk.512.attn_q.weight"])
    # A number no %d of ggml writes is no block index.
    assert classify(["blk.9999999.attn_q.weight"]).n_layer == 0


def test_thousand_tensors_take_less_than_50_ms() -> None:
    names = [name for block in range(72) for name in in_blocks([block], QWEN35_LINEAR)]
    assert len(names) > 1000
    elapsed_ns = []
    for _ in range(5):
        start = time.perf_counter_ns()
        classify(names, "qwen35moe", block_count=72, expert_count=256)
        elapsed_ns.append(time.perf_counter_ns() - start)
    # The fastest run: a loaded machine only adds to the others.
    assert min(elapsed_ns) < 50e6
