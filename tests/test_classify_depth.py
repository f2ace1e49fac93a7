"""classify_tensors on odd metadata: depth, multi-token prediction, counts, speed."""

from __future__ import annotations

import pytest

from apex_native.classification import classify_tensors
from apex_native.errors import GgufError
from apex_native.types import (
    GgmlType,
    GgufFacts,
    MetadataValue,
    Role,
    TensorInfo,
)
from classify_tables import (
    classify,
)


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
