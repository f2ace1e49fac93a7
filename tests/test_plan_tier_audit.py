"""What a plan says of a tier on a model it was not made for, and which variant it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_native.errors import PlanError
from apex_native.plan import Finding, FindingKind, Plan, load_tier, make_plan
from apex_native.types import GgmlType, Role
from mix_models import MODELS
from plan_tables import (
    STRING,
    Table,
    add_attention,
    add_dense_ffn,
    add_experts,
    add_frame,
    qwen35_35b,
)


def qwen3_coder_30b() -> Table:
    """Qwen3-Coder-30B-A3B: 48 layers, 128 experts of 768."""
    table = Table("qwen3moe", 48)
    table.set("general.name", STRING, "Qwen3 Coder 30B A3B Instruct")
    table.hparams(
        embedding_length=2048,
        attention__head_count=32,
        attention__head_count_kv=4,
        expert_count=128,
        expert_used_count=8,
    )
    add_frame(table, 2048, 151936)
    for layer in range(48):
        add_attention(table, layer, 2048, 4096, 512)
        add_experts(table, layer, 2048, 768, 128)
    return table


def nemotron_like() -> Table:
    """Rows of 2688 and 1856, as Nemotron 3 Nano has them; 6 layers."""
    table = Table("qwen3moe", 6)
    table.hparams(
        embedding_length=2688,
        attention__head_count=32,
        attention__head_count_kv=2,
        expert_count=16,
        expert_used_count=2,
    )
    add_frame(table, 2688, 4096)
    for layer in range(6):
        add_attention(table, layer, 2688, 4096, 256)
        add_experts(table, layer, 2688, 1856, 16)
    return table


def planned(table: Table, tier: str, **more: object) -> Plan:
    return make_plan(table.classification, tier=tier, **more)  # type: ignore[arg-type]


def only(plan: Plan, kind: FindingKind) -> Finding:
    (found,) = [finding for finding in plan.findings if finding.kind is kind]
    return found


def near_type(plan: Plan) -> GgmlType:
    return plan.types["blk.7.ffn_up_exps.weight"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen3.5-35B-A3B", GgmlType.IQ2_S),
        ("Qwen3.5 35B A3b", GgmlType.IQ2_S),
        ("Qwen3.6-35B-A3B", GgmlType.Q3_K),
        ("Holo3-35B-A3B", GgmlType.Q3_K),
    ],
)
def test_mini_has_the_near_layers_that_were_published_for_the_model(
    name: str, expected: GgmlType
) -> None:
    table = qwen35_35b()
    table.set("general.name", STRING, name)
    plan = planned(table, "mini")
    assert near_type(plan) is expected
    finding = only(plan, FindingKind.TIER_VARIANT)
    assert finding.message.startswith(f"{expected} for near experts, as ")
    other = "tier mini-q3 has Q3_K" if expected is GgmlType.IQ2_S else "tier mini-iq2 has IQ2_S"
    assert other in finding.message


def test_both_forms_of_mini_can_be_asked_for_on_any_model() -> None:
    table = qwen35_35b()
    q3, iq2 = planned(table, "mini-q3"), planned(table, "mini-iq2")
    assert (near_type(q3), near_type(iq2)) == (GgmlType.Q3_K, GgmlType.IQ2_S)
    assert iq2.types == planned(table, "mini").types
    assert (q3.tier, iq2.tier) == ("mini-q3", "mini-iq2")
    with pytest.raises(PlanError, match="unknown tier 'mini-q4'"):
        load_tier("mini-q4")


def test_mini_has_the_published_size_of_other_models() -> None:
    # 11.3 GiB is what the original authors publish; with IQ2_S it would be 10.4.
    gib = planned(qwen3_coder_30b(), "mini").total_bytes / 2**30
    assert gib == pytest.approx(11.3, abs=0.05)  # printed with one digit


def test_a_tier_that_rows_keep_from_its_types_is_a_warning_with_the_numbers() -> None:
    finding = only(planned(nemotron_like(), "micro"), FindingKind.TIER_UNREACHED)
    assert "rows of 1856, 2688, no multiple of 256" in finding.message
    assert "MiB instead of" in finding.message
    assert "as mini and nano would" not in finding.message  # their edges have other types
    assert "IQ4_NL (4.50 bits)" in finding.message
    assert "Q4_K" not in finding.message.rpartition("can have")[2]


def test_tiers_that_come_to_the_same_file_name_each_other() -> None:
    plans = {tier: planned(nemotron_like(), tier) for tier in ("mini", "nano", "micro")}
    for tier, plan in plans.items():
        message = only(plan, FindingKind.TIER_UNREACHED).message
        for other, rival in plans.items():
            equal = other != tier and plan.types == rival.types
            said = f"as {other} " in message or f" and {other} would" in message
            assert said == equal, (tier, other, message)
    assert (
        plans["micro"].types == plans["nano"].types or plans["mini"].types == plans["micro"].types
    )


@pytest.mark.parametrize("tier", ["quality", "mini"])
def test_a_tier_that_reaches_its_types_says_nothing_of_rows(tier: str) -> None:
    kinds = [finding.kind for finding in planned(qwen35_35b(), tier).findings]
    assert FindingKind.TIER_UNREACHED not in kinds
    assert FindingKind.TIER_FOR_EXPERTS not in kinds


def test_a_dense_model_with_a_tier_is_warned_and_told_the_mix() -> None:
    finding = only(planned(MODELS["llama_gqa"](), "quality"), FindingKind.TIER_FOR_EXPERTS)
    assert "the model has no experts" in finding.message
    assert "the mix Q5_K_M" in finding.message


def test_hundreds_of_rules_without_effect_are_one_line() -> None:
    table = MODELS["mixtral"]()
    rules = [f"blk.{i}.{part}=Q8_0" for i in range(100) for part in ("ssm_alpha", "attn_gate", "x")]
    plan = make_plan(table.classification, ftype="Q8_0", tensor_types=[*rules, "attn_q=Q6_K"])
    finding = only(plan, FindingKind.RULE_WITHOUT_EFFECT)
    assert finding.message.startswith("300 rules match no tensor: 100 like blk.0.ssm_alpha=Q8_0, ")
    assert len(finding.message) < 160


def test_gemma4_gives_the_weights_beside_its_experts_the_shared_types() -> None:
    from apex_native.classification import classify_tensors

    table = Table("gemma4", 30)
    table.hparams(expert_count=8, expert_used_count=2, embedding_length=256)
    add_frame(table, 256, 512, tied=True)
    for layer in range(30):
        add_attention(table, layer, 256, 256, 256)
        add_dense_ffn(table, layer, 256, 256)
        add_experts(table, layer, 256, 256, 8)
    classification = classify_tensors(table.facts)
    plan = make_plan(classification, tier="quality")
    roles = {tensor.name: tensor.role for tensor in plan.tensors}
    assert roles["blk.3.ffn_up.weight"] is Role.SHARED_EXPERT
    assert plan.types["blk.3.ffn_up.weight"] is GgmlType.Q8_0


def test_the_plan_of_a_variant_can_be_saved_and_read(tmp_path: Path) -> None:
    plan = planned(qwen35_35b(), "mini-q3")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
