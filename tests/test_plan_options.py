"""Requests, options, the shape fallback, kept tensors, another file's types, metadata."""

from __future__ import annotations

import pytest

from apex_native.errors import PlanError
from apex_native.plan import DecidedBy, Edges, FindingKind, ImatrixSummary, Plan, make_plan
from apex_native.plan.allow import reason_to_keep
from apex_native.plan.fallback import fit_to_rows
from apex_native.types import GgmlType, Role
from mix_models import MODELS
from plan_tables import HIDDEN, STRING, U32, Table, add_frame


def plan_of(model: str, **arguments) -> Plan:
    table = MODELS[model]()
    return make_plan(table.classification, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of tier, ftype, like and types; found none"),
        ({"tier": "mini", "ftype": "Q8_0"}, "found tier and ftype"),
        ({"ftype": "Q8_0", "like": {}}, "found ftype and like"),
        ({"like": {}, "types": {}}, "found like and types"),
        ({"tier": "mini", "semantics": "literal"}, "semantics must be one of published, declared"),
        ({"ftype": "Q8_0", "edges": Edges(1, 1, 1)}, "edges belong to a tier"),
        ({"ftype": "COPY", "pure": True}, "COPY keeps every tensor"),
        ({"ftype": "COPY", "tensor_types": ["a=q8_0"]}, "COPY keeps every tensor"),
        ({"like": {}, "pure": True}, "pure switches off a base mix"),
        ({"ftype": "Q8_0", "output_tensor_type": GgmlType.Q8_K}, "output_tensor_type.*Q8_K"),
        ({"ftype": "Q8_0", "token_embedding_type": GgmlType.I8}, "token_embedding_type.*I8"),
        ({"ftype": "Q8_0", "extra_metadata": {"general.file_type": 1}}, "written by the plan"),
        ({"ftype": "Q8_0", "extra_metadata": {"x": ()}}, "x: an empty array"),
    ],
)
def test_requests_that_make_no_sense_are_refused(arguments, message) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of("llama_mha", **arguments)


@pytest.mark.parametrize(
    ("wanted", "n_per_row", "expected"),
    [
        ("Q4_K", 256, "Q4_K"), ("Q4_K", 288, "Q5_0"), ("Q5_K", 288, "Q5_1"),
        ("Q6_K", 288, "Q8_0"), ("Q3_K", 288, "Q4_0"), ("Q2_K", 288, "Q4_0"),
        ("IQ1_S", 288, "IQ4_NL"), ("IQ1_M", 288, "IQ4_NL"), ("IQ2_XXS", 288, "IQ4_NL"),
        ("IQ2_XS", 288, "IQ4_NL"), ("IQ2_S", 288, "IQ4_NL"), ("IQ3_XXS", 288, "IQ4_NL"),
        ("IQ3_S", 288, "IQ4_NL"), ("IQ4_XS", 288, "IQ4_NL"), ("TQ1_0", 288, "Q4_0"),
        ("TQ2_0", 288, "Q4_0"), ("Q2_0", 288, "Q4_0"), ("Q2_0", 320, "Q2_0"),
        ("Q8_0", 100, "F16"), ("Q4_K", 100, "F16"), ("MXFP4", 100, "F16"), ("F16", 3, "F16"),
    ],
)  # fmt: skip
def test_shape_fallback(wanted, n_per_row, expected) -> None:
    assert fit_to_rows(GgmlType[wanted], n_per_row) is GgmlType[expected]


@pytest.mark.parametrize("wanted", [GgmlType.NVFP4, GgmlType.Q1_0])
def test_types_without_a_fallback_are_refused(wanted) -> None:
    with pytest.raises(PlanError, match=f"{wanted} needs rows that are multiples of"):
        fit_to_rows(wanted, 288)
    with pytest.raises(PlanError, match=r"^blk\.\d\.attn_q\.weight: "):
        plan_of("odd_rows", ftype="Q8_0", tensor_types=[f"attn_q={wanted}"])


def test_fallbacks_are_found_and_explained() -> None:
    plan = plan_of("odd_rows", ftype="Q6_K")
    tensor = next(t for t in plan.tensors if t.name == "blk.0.ffn_up.weight")
    assert (tensor.wanted, tensor.type) == (GgmlType.Q6_K, GgmlType.Q8_0)
    assert tensor.reason == "base mix Q6_K; rows of 320 do not fit Q6_K"
    found = {f.tensor: f.message for f in plan.findings if f.kind is FindingKind.SHAPE_FALLBACK}
    assert found["blk.0.ffn_up.weight"] == (
        "Q6_K needs rows that are multiples of 256, found 320: Q8_0 instead"
    )
    assert set(found) == {t.name for t in plan.tensors if t.type is not t.wanted}


@pytest.mark.parametrize(
    ("name", "shape", "architecture", "reason"),
    [
        ("output_norm.weight", (64,), "", "one-dimensional"),
        ("blk.0.x.weight", (1, 64), "", "one-dimensional"),
        ("blk.0.ssm_a", (4, 64), "", "not a weight"),
        ("blk.0.attn_q.bias", (4, 64), "", "not a weight"),
        ("blk.0.attn_q_norm.weight", (4, 64), "", "norm"),
        ("blk.0.ffn_gate_inp.weight", (4, 64), "", "router"),
        ("position_embd.weight", (4, 64), "bert", "position embedding"),
        ("blk.0.ssm_conv1d.weight", (64, 4), "", "small convolution"),
        ("blk.0.time_mix_w1.weight", (4, 64), "rwkv7", "small RWKV weight"),
        ("blk.0.attn_k_b.weight", (4, 64), "glm5-next", "small weight of glm5-next"),
        ("blk.0.attn_k_b.weight", (4, 64), "deepseek2", None),
        ("output.weight", (4, 64), "", None),
        ("blk.0.ffn_gate_inp_shexp.weight", (4, 64), "", None),
        ("blk.0.nextn.eh_proj.weight", (4, 64), "", None),
        ("scale", (4, 64), "", None),  # upstream's rfind() == size() - 6 lets 5 letters pass
    ],
)
def test_tensors_llama_cpp_never_quantizes(name, shape, architecture, reason) -> None:
    assert reason_to_keep(name, shape, architecture) == reason


def test_the_output_tensor_can_be_left_alone() -> None:
    reason = reason_to_keep("output.weight", (4, 64), "", keep_output=True)
    assert reason == "output tensor left as it is"


def test_options_come_before_rules() -> None:
    plan = plan_of(
        "llama_gqa",
        ftype="Q4_K_M",
        tensor_types=["weight=Q8_0"],
        output_tensor_type=GgmlType.Q6_K,
        token_embedding_type=GgmlType.Q5_K,
    )
    decided = {t.name: (t.type.name, t.decided_by) for t in plan.tensors}
    assert decided["output.weight"] == ("Q6_K", DecidedBy.OPTION)
    assert decided["token_embd.weight"] == ("Q5_K", DecidedBy.OPTION)
    assert decided["blk.0.attn_q.weight"] == ("Q8_0", DecidedBy.RULE)


def test_options_fall_back_where_llama_quantize_aborts() -> None:
    plan = plan_of("odd_rows", ftype="Q8_0", output_tensor_type=GgmlType.Q6_K)
    assert plan.types["output.weight"] is GgmlType.Q8_0
    assert [f.tensor for f in plan.findings if f.kind is FindingKind.NOT_AS_UPSTREAM] == [
        "output.weight"
    ]


def test_a_plan_can_follow_another_file() -> None:
    table = MODELS["llama_gqa"]()
    model = plan_of("llama_gqa", tier="quality")
    plan = make_plan(table.classification, like=model.types)
    assert plan.types == model.types
    assert (plan.base, plan.tier, plan.ftype, plan.edges) == ("like", None, "", None)
    assert plan.file_type == 18  # most weights are Q6_K
    assert plan.findings == ()


def test_following_another_file_reports_what_it_cannot_follow() -> None:
    like = dict(plan_of("llama_gqa", ftype="Q4_K_M").types)
    del like["blk.3.attn_q.weight"]
    like["blk.9.attn_norm.weight"] = GgmlType.F16
    like["rope_freqs.weight"] = GgmlType.F32
    plan = plan_of("llama_gqa", like=like, tensor_types=["attn_k=Q8_0"])
    assert plan.types["blk.3.attn_q.weight"] is GgmlType.F16
    assert plan.types["blk.9.attn_norm.weight"] is GgmlType.F32
    assert plan.types["blk.0.attn_k.weight"] is GgmlType.Q8_0
    assert {(f.kind, f.tensor) for f in plan.findings} == {
        (FindingKind.UNCLAIMED, "blk.3.attn_q.weight"),
        (FindingKind.LIKE_NOT_FOLLOWED, "blk.9.attn_norm.weight"),
        (FindingKind.RULE_WITHOUT_EFFECT, ""),
    }
    with pytest.raises(PlanError, match="the other file has Q8_K"):
        plan_of("llama_gqa", like={"blk.0.attn_q.weight": GgmlType.Q8_K})


def test_types_of_any_origin_say_why() -> None:
    given = dict(plan_of("llama_gqa", ftype="Q4_K_M").types)
    del given["blk.3.attn_q.weight"]
    plan = plan_of("llama_gqa", types=given, reason="search at 3 bpw", tensor_types=["attn_k=Q8_0"])
    assert (plan.base, plan.tier, plan.ftype, plan.edges) == ("types", None, "", None)
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    decided = tensors["blk.0.attn_q.weight"]
    assert (decided.type, decided.decided_by) == (GgmlType.Q4_K, DecidedBy.TYPES)
    assert decided.reason == "search at 3 bpw"
    assert tensors["blk.0.attn_k.weight"].decided_by is DecidedBy.RULE
    assert tensors["blk.3.attn_q.weight"].reason == "not among the types: left as it is"
    assert [(f.kind, f.tensor) for f in plan.findings] == [
        (FindingKind.UNCLAIMED, "blk.3.attn_q.weight")
    ]
    assert Plan.from_json(plan.to_json()) == plan
    assert plan_of("llama_gqa", types=plan.types).tensors[1].reason == "as given"
    with pytest.raises(PlanError, match="the types say Q8_K, which cannot be written"):
        plan_of("llama_gqa", types={"blk.0.attn_q.weight": GgmlType.Q8_K})
    with pytest.raises(PlanError, match="give it together with types"):
        plan_of("llama_gqa", ftype="Q8_0", reason="no reason")


def test_sources_that_are_quantized_or_no_weights() -> None:
    table = Table("llama", 0, weight_type=GgmlType.Q8_0)
    add_frame(table, HIDDEN, HIDDEN)
    table.add("table.weight", (HIDDEN, 2), Role.OTHER, GgmlType.I32)
    plan = make_plan(table.classification, ftype="Q8_0")
    assert [(f.kind, f.tensor) for f in plan.findings] == [
        (FindingKind.UNSUPPORTED_SOURCE, "table.weight")
    ]
    assert plan.blocking_findings == plan.findings
    plan = make_plan(table.classification, ftype="Q4_0")
    kinds = [f.kind for f in plan.findings]
    assert kinds == [FindingKind.REQUANTIZES] * 2 + [FindingKind.UNSUPPORTED_SOURCE]


def metadata(plan: Plan) -> dict[str, tuple[str, object]]:
    return {entry.key: (entry.type.name, entry.value) for entry in plan.metadata}


def test_metadata_of_a_tier_with_an_imatrix() -> None:
    imatrix = ImatrixSummary(
        entries={"blk.0.attn_q.weight": (256, 1), "blk.0.attn_k.weight": (256, 1)},
        sha256="ab" * 32,
        file="é" * 70,
        chunk_count=100,
        datasets=("first.txt", "second.txt"),
    )
    plan = plan_of(
        "llama_gqa", tier="i-compact", imatrix=imatrix,
        extra_metadata={"apex.version": "1.0", "apex.seed": -1},
    )  # fmt: skip
    assert metadata(plan) == {
        "general.quantization_version": ("UINT32", 2),
        "general.file_type": ("UINT32", 15),
        "apex.tier": ("STRING", "i-compact"),
        "apex.semantics": ("STRING", "published"),
        "apex.rules_sha256": ("STRING", plan.rules_sha256),
        "apex.imatrix_sha256": ("STRING", "ab" * 32),
        # llama-quantize keeps 127 bytes of these; é has two.
        "quantize.imatrix.file": ("STRING", "é" * 63),
        "quantize.imatrix.dataset": ("STRING", "first.txt"),
        "quantize.imatrix.entries_count": ("UINT32", 2),
        "quantize.imatrix.chunks_count": ("UINT32", 100),
        "apex.version": ("STRING", "1.0"),
        "apex.seed": ("INT32", -1),
    }
    assert plan.imatrix_sha256 == "ab" * 32


def table_with_history() -> Table:
    table = MODELS["llama_mha"]()
    table.set("general.alignment", U32, 64)
    table.set("general.file_type", U32, 1)
    table.set("split.count", U32, 2)
    table.set("apex.tier", STRING, "mini")
    table.set("quantize.imatrix.file", STRING, "old.gguf")
    return table


def test_keys_that_would_be_wrong_in_the_copy_are_not_copied() -> None:
    table = table_with_history()
    plan = make_plan(table.classification, ftype="Q8_0")
    removed = ("general.alignment", "split.count", "apex.tier", "quantize.imatrix.file")
    assert plan.metadata_removed == removed
    sizes = table.facts.kv_sizes
    copied = sum(s for k, s in sizes.items() if k not in (*removed, "general.file_type"))
    assert plan.kv_bytes == copied + sum(entry.nbytes for entry in plan.metadata)


def test_a_pure_copy_keeps_its_history() -> None:
    table = table_with_history()
    plan = make_plan(table.classification, ftype="COPY")
    assert plan.metadata_removed == ("general.alignment", "split.count")


def test_keys_written_anew_are_not_listed_as_removed() -> None:
    table = table_with_history()
    plan = make_plan(table.classification, tier="quality")
    assert "apex.tier" not in plan.metadata_removed
    assert metadata(plan)["apex.tier"] == ("STRING", "quality")
