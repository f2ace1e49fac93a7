from __future__ import annotations

import pytest

from apex_native.classification import classify_tensors
from apex_native.errors import PlanError
from apex_native.plan import (
    DecidedBy,
    Edges,
    FileType,
    FindingKind,
    ImatrixUse,
    Plan,
    Position,
    default_edges,
    load_tier,
    make_plan,
    tier_names,
)
from apex_native.plan.tier import parse_tier
from apex_native.types import GgmlType, Role
from mix_models import MODELS
from plan_tables import qwen35_35b

# The published recipes: base mix; experts edge, near, middle; shared and attention edge, other.
PUBLISHED = {
    "quality": ("Q6_K", ("Q6_K", "Q5_K", "IQ4_XS"), ("Q8_0", "Q8_0"), ("Q6_K", "Q6_K")),
    "balanced": ("Q6_K", ("Q6_K", "Q5_K", "Q5_K"), ("Q8_0", "Q8_0"), ("Q6_K", "Q6_K")),
    "compact": ("Q4_K_M", ("Q4_K", "Q3_K", "Q3_K"), ("Q6_K", "Q6_K"), ("Q4_K", "Q4_K")),
    "mini": ("Q3_K_M", ("Q3_K", "IQ2_S", "IQ2_S"), ("Q5_K", "Q4_K"), ("Q4_K", "Q3_K")),
    "nano": ("Q3_K_M", ("Q3_K", "IQ2_S", "IQ2_XXS"), ("Q5_K", "Q4_K"), ("Q4_K", "Q3_K")),
    "micro": ("Q3_K_M", ("Q3_K", "IQ2_XS", "IQ1_M"), ("Q5_K", "Q4_K"), ("Q4_K", "Q3_K")),
}


def plan_35b(tier: str, **arguments) -> Plan:
    table = qwen35_35b()
    return make_plan(table.classification, tier=tier, **arguments)


@pytest.mark.parametrize("tier", PUBLISHED)
def test_declared_semantics_are_the_published_rules_literally(tier) -> None:
    base, experts, shared, attention = PUBLISHED[tier]
    plan = plan_35b(tier, semantics="declared")
    assert plan.ftype == base
    for tensor in plan.tensors:
        if tensor.decided_by is DecidedBy.KEPT:
            continue
        distance = min(tensor.layer, 39 - tensor.layer) if tensor.layer is not None else None
        if tensor.role.is_routed_expert:
            expected = experts[0 if distance < 5 else 1 if distance < 10 else 2]
        elif tensor.role is Role.SHARED_EXPERT:
            expected = shared[0 if distance < 5 else 1]
        elif tensor.role in (Role.ATTENTION, Role.SSM):
            expected = attention[0 if distance < 3 else 1]
        else:
            assert tensor.name in ("token_embd.weight", "output.weight")
            assert tensor.decided_by is DecidedBy.BASE
            continue
        assert tensor.type.name == expected, tensor.name


def test_the_tier_claims_exactly_the_tensors_of_the_published_rule_files() -> None:
    plan = plan_35b("quality", semantics="declared")
    stems = {t.name.split(".")[2] for t in plan.tensors if t.decided_by is DecidedBy.TIER}
    assert stems == {
        "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp",
        "ffn_down_shexp", "attn_q", "attn_k", "attn_v", "attn_output", "attn_gate", "attn_qkv",
        "ssm_alpha", "ssm_beta", "ssm_out",
    }  # fmt: skip


def test_published_semantics_leave_rules_equal_to_the_default_to_the_mix() -> None:
    plan = plan_35b("compact")
    notes = [t for t in plan.tensors if t.note]
    # The mix's Q6_K: ffn_down_exps of the 10 edge layers, attn_qkv and attn_v of 20 layers.
    assert {t.type for t in notes} == {GgmlType.Q6_K}
    assert {t.name for t in notes if "exps" in t.name} == {
        f"blk.{i}.ffn_down_exps.weight" for i in (*range(5), *range(35, 40)) if _more_bits(i)
    }
    edge = next(t for t in notes if t.name == "blk.0.ffn_down_exps.weight")
    assert edge.decided_by is DecidedBy.BASE
    assert edge.wanted is GgmlType.Q6_K
    assert edge.reason == (
        "tier compact (experts, edge) asks for Q4_K, the default of Q4_K_M: "
        "left to the base mix Q4_K_M"
    )
    assert edge.note == "declared semantics give Q4_K: tier compact (experts, edge)"


def _more_bits(layer: int) -> bool:
    """Which layers Q4_K_M raises to Q6_K: 0-4 and 35-39, and every third between."""
    return layer < 5 or layer >= 35 or (layer - 5) % 3 == 2


def test_differences_between_semantics_are_noted_on_both_sides() -> None:
    published, declared = plan_35b("mini"), plan_35b("mini", semantics="declared")
    differing = {row.name for row in published.differences(declared)}
    assert differing == {t.name for t in published.tensors if t.note}
    assert differing == {t.name for t in declared.tensors if t.note}
    assert len(differing) == 53
    middle = next(t for t in declared.tensors if t.name == "blk.20.attn_qkv.weight")
    assert middle.type is GgmlType.Q3_K
    assert middle.note.startswith("published semantics give Q4_K: tier mini (attention, middle)")


@pytest.mark.parametrize("tier", ["quality", "balanced"])
def test_the_large_tiers_have_one_meaning(tier) -> None:
    assert plan_35b(tier).types == plan_35b(tier, semantics="declared").types


@pytest.mark.parametrize(
    ("n_layer", "edges"),
    [
        (94, (5, 5, 3)), (40, (5, 5, 3)), (30, (5, 5, 3)), (29, (4, 4, 2)), (28, (4, 4, 2)),
        (20, (2, 2, 2)), (12, (2, 2, 1)), (8, (1, 1, 1)), (4, (1, 1, 1)), (1, (1, 1, 1)),
    ],
)  # fmt: skip
def test_edges_shrink_with_shallow_models_only(n_layer, edges) -> None:
    found, rule = default_edges(n_layer)
    assert (found.expert, found.near, found.attention) == edges
    assert ("scaled down" in rule) == (n_layer < 30)


def test_positions_count_from_both_ends() -> None:
    edges = Edges(expert=2, near=1, attention=1)
    positions = "".join(edges.expert_position(i, 8).value[0] for i in range(8))
    assert positions == "eenmmnee"
    assert [edges.attention_position(i, 3) for i in range(3)] == [
        Position.EDGE, Position.MIDDLE, Position.EDGE,
    ]  # fmt: skip


def test_edges_can_be_given_and_the_plan_says_so() -> None:
    plan = plan_35b("quality", edges=Edges(expert=1, near=0, attention=0))
    assert plan.types["blk.0.ffn_up_exps.weight"] is GgmlType.Q6_K
    assert plan.types["blk.1.ffn_up_exps.weight"] is GgmlType.IQ4_XS
    assert plan.edges == Edges(1, 0, 0)
    assert plan.edges_rule == "given by the caller"
    with pytest.raises(PlanError, match="'near' must be 0 or more, found -1"):
        Edges(1, -1, 1)


def test_prediction_layers_are_edges_and_do_not_count_as_depth() -> None:
    table = MODELS["qwen35moe_mtp"]()  # 12 layers of trunk, layer 12 predicts
    plan = make_plan(table.classification, tier="mini", semantics="declared")
    assert plan.edges == Edges(2, 2, 1)
    assert (plan.n_layer, plan.n_layer_all) == (12, 13)
    assert plan.types["blk.11.ffn_down_exps.weight"] is GgmlType.Q3_K
    assert plan.types["blk.9.ffn_down_exps.weight"] is GgmlType.Q3_K  # near
    assert plan.types["blk.6.ffn_down_exps.weight"] is GgmlType.IQ2_S
    assert plan.types["blk.12.ffn_gate_up_exps.weight"] is GgmlType.Q3_K
    assert plan.types["blk.12.attn_q.weight"] is GgmlType.Q4_K
    assert plan.types["blk.12.nextn.eh_proj.weight"] is GgmlType.Q8_0
    assert plan.types["blk.12.nextn.shared_head_head.weight"] is GgmlType.Q4_K
    tensors = {t.name: t for t in plan.tensors}
    assert "multi-token prediction layer" in tensors["blk.12.attn_q.weight"].reason


@pytest.mark.parametrize("tier", PUBLISHED)
@pytest.mark.parametrize("semantics", ["published", "declared"])
def test_no_shipped_tier_needs_an_imatrix_for_prediction(tier, semantics) -> None:
    table = MODELS["qwen35moe_mtp"]()
    plan = make_plan(table.classification, tier=tier, semantics=semantics)
    mtp = [t for t in plan.tensors if t.is_mtp]
    assert len(mtp) == 10
    assert all(t.imatrix is not ImatrixUse.REQUIRED for t in mtp)


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_gives_the_plan_that_roles_by_hand_give(name) -> None:
    table = MODELS[name]()
    classified = classify_tensors(table.facts)
    for tier in ("quality", "mini"):
        plan = make_plan(classified, tier=tier)
        assert plan.types == make_plan(table.classification, tier=tier).types


def test_fused_experts_are_experts() -> None:
    table = MODELS["qwen35moe_mtp"]()
    plan = make_plan(table.classification, tier="quality")
    assert plan.types["blk.7.ffn_gate_up_exps.weight"] is GgmlType.IQ4_XS


def test_tier_names_and_variants() -> None:
    assert set(tier_names()) == {*PUBLISHED, "i-quality", "i-balanced", "i-compact"}
    assert [load_tier(n).needs_imatrix for n in ("compact", "i-compact", "mini")] == [
        False, True, True,
    ]  # fmt: skip
    assert load_tier("I-Quality").name == "i-quality"
    assert load_tier("i-mini").name == "mini"
    assert load_tier("i-balanced").rules == load_tier("balanced").rules


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("qualty", "did you mean.*quality"),
        ("i-compat", "did you mean.*i-compact"),
        ("zzz", "'zzz'; known: balanced, i-balanced, compact"),
    ],
)
def test_unknown_tiers_are_refused_with_near_names(name, hint) -> None:
    with pytest.raises(PlanError, match=hint):
        load_tier(name)


CUSTOM = """
schema_version = 1
name = "mine"
base = "Q5_K_M"
imatrix = "optional"
[rules.experts]
roles = ["expert_gate", "expert_up", "expert_down"]
edges = "attention"
edge = "Q8_0"
other = "Q4_0"
[mtp]
position = "middle"
other = "Q5_K"
[mtp.projections]
"""


SECOND_RULE = """
[rules.second]
roles = ["expert_up"]
edges = "expert"
edge = "Q8_0"
other = "Q8_0"
"""


def test_a_tier_can_come_from_a_file(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(CUSTOM)
    plan = plan_35b(str(path))
    assert (plan.tier, plan.ftype) == ("mine", "Q5_K_M")
    assert plan.types["blk.2.ffn_up_exps.weight"] is GgmlType.Q8_0
    assert plan.types["blk.3.ffn_up_exps.weight"] is GgmlType.Q4_0
    # What the recipe forgets is a finding where it matters and information elsewhere.
    unclaimed = [f for f in plan.findings if f.kind is FindingKind.UNCLAIMED]
    assert len(unclaimed) == 40 * 3 + 10 * 4 + 30 * 2  # shared experts, attention
    follows = [f.message for f in plan.findings if f.kind is FindingKind.FOLLOWS_BASE]
    assert follows == [
        "role embedding: 1 tensor follows the base mix Q5_K_M",
        "role output: 1 tensor follows the base mix Q5_K_M",
        "role ssm: 90 tensors follow the base mix Q5_K_M",
    ]
    with pytest.raises(PlanError, match=r"missing\.toml"):
        load_tier(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version must be 1, found 2"),
        ('name = "mine"', "", "name is missing"),
        ('name = "mine"', "name = 3", "name must be str, found 3"),
        ('base = "Q5_K_M"', 'base = "Q5_K_X"', "did you mean"),
        ('base = "Q5_K_M"', 'base = "F16"', "base must be a quantized file type"),
        ('"optional"', '"yes"', "imatrix must be 'required' or 'optional'"),
        ('other = "Q4_0"', 'other = "Q4_9"', r"rules\.experts\.other unknown ggml type"),
        ('other = "Q4_0"', 'other = "Q8_K"', "cannot be written"),
        ('other = "Q4_0"', 'otter = "Q4_0"', "did you mean 'other'"),
        ('other = "Q4_0"', 'near = "Q4_0"', r"rules\.experts\.middle is missing"),
        ('other = "Q4_0"', 'other = "Q4_0"\nnear = "Q4_0"', "use one form"),
        ('"expert_down"', '"expert_dwn"', "'expert_dwn' is not one of"),
        ('edges = "attention"', 'edges = "atention"', "is not one of expert, attention"),
        ("[mtp]", SECOND_RULE + "[mtp]", r"names expert_up, which rules\.experts has already"),
        ("[mtp]", "[mtp", "tier mine: "),
    ],
)  # fmt: skip
def test_mistakes_in_a_tier_are_named(old, new, message) -> None:
    assert old in CUSTOM
    with pytest.raises(PlanError, match=message):
        parse_tier(CUSTOM.replace(old, new), source="mine")


def test_a_role_the_model_lacks_is_information() -> None:
    table = MODELS["mixtral"]()
    plan = make_plan(table.classification, tier="quality")
    assert [f.message for f in plan.findings if f.kind is FindingKind.ROLE_ABSENT] == [
        "the model has no tensors for the tier's rule 'shared' (shared_expert)"
    ]


def test_general_file_type_of_a_tier_is_the_type_with_most_bytes() -> None:
    assert plan_35b("micro").file_type == FileType.IQ1_M.number == 31
