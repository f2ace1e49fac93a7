from __future__ import annotations

import json
from dataclasses import replace

import pytest

from apex_native.errors import OutputError, PlanError
from apex_native.plan import (
    Edges,
    ImatrixSummary,
    Plan,
    PlanDifference,
    make_plan,
    rules_sha256,
)
from apex_native.types import GgmlType, Role
from mix_models import MODELS
from plan_tables import Table


def make(model: str = "qwen35moe_mtp", **arguments) -> Plan:
    table = MODELS[model]()
    arguments = arguments or {"tier": "mini"}
    return make_plan(table.classification, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tier": "mini"},
        {"tier": "i-quality", "semantics": "declared", "edges": Edges(1, 2, 3)},
        {"ftype": "IQ2_XXS", "imatrix": ImatrixSummary({"a": (1, 1)}, "00", "f", 3, ("d",))},
        {"ftype": "Q4_K_M", "tensor_types": ["attn_v=q8_0", "zzz=q4_k"], "pure": True},
        {"ftype": "F16", "output_tensor_type": GgmlType.Q8_0, "leave_output_tensor": True},
        {"like": {"output.weight": GgmlType.Q4_K}},
        {"ftype": "Q8_0", "extra_metadata": {"a": (1, 2), "b": True, "c": 0.1, "d": ("x",)}},
    ],
)
def test_a_plan_survives_json_unchanged(arguments, tmp_path) -> None:
    plan = make(**arguments)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert read.to_json() == plan.to_json()
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_names_that_are_not_utf8_survive() -> None:
    table = Table("llama", 0)
    table.add("bad\udcff.weight", (32, 32), Role.OTHER)
    plan = make_plan(table.classification, ftype="Q8_0", tensor_types=["bad=q4_0"])
    assert plan.types == {"bad\udcff.weight": GgmlType.Q4_0}
    assert Plan.from_json(plan.to_json()) == plan


def test_the_json_contract() -> None:
    plan = make(tier="quality")
    data = json.loads(plan.to_json())
    assert data["schema_version"] == 1
    assert data["total_bytes"] == plan.total_bytes
    row = next(r for r in data["tensors"] if r["name"] == "blk.5.ffn_down_exps.weight")
    assert {key: row[key] for key in ("name", "role", "layer", "type", "bytes", "shape")} == {
        "name": "blk.5.ffn_down_exps.weight",
        "role": "expert_down",
        "layer": 5,
        "type": "IQ4_XS",
        "bytes": 256 * 256 * 8 // 256 * 136,
        "shape": [8, 256, 256],
    }
    assert sum(data["bytes_by_role"].values()) == plan.tensor_bytes
    assert {f["severity"] for f in data["findings"]} <= {"info", "warning", "blocking"}


def edited(plan: Plan, change) -> str:
    data = json.loads(plan.to_json())
    change(data)
    return json.dumps(data)


def set_type(data: dict, index: int, type: str) -> None:
    data["tensors"][index]["type"] = type


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema_version must be 1, found 2"),
        (lambda d: d.update(schema_version=True), "schema_version must be 1, found True"),
        (lambda d: d.pop("ftype"), "plan: 'ftype' is missing"),
        (lambda d: d.update(n_layer="12"), "plan.n_layer: expected int, found '12'"),
        (lambda d: d.update(n_layer=True), "plan.n_layer: expected int, found True"),
        (lambda d: d.update(tensors={}), "plan.tensors: expected an array"),
        (lambda d: d["tensors"].insert(0, 3), r"plan.tensors\[0\]: expected an object, found 3"),
        (lambda d: d["tensors"][0].update(role="chef"), r"tensors\[0\].role: expected one of"),
        (lambda d: d["tensors"][0].update(shape=[1.5]), r"shape\[0\]: expected int, found 1.5"),
        (lambda d: d.update(edges={"expert": -1, "near": 1, "attention": 1}), "0 or more"),
        (lambda d: d["metadata"][0].update(value=-1), "cannot be stored as GGUF UINT32"),
        (lambda d: d["metadata"][0].update(value=None), "expected a scalar or an array"),
        (lambda d: set_type(d, 0, "Q8_0"), "cannot be Q8_0 in .* bytes; a plan is not edited"),
        (lambda d: d["tensors"][0].pop("bytes"), "cannot be Q3_K in None bytes"),
        (lambda d: d.update(total_bytes=1), "total_bytes is 1, its tensors give"),
        (lambda d: d.update(rules_sha256=""), "rules_sha256 is ''"),
        (lambda d: d["tensors"].pop(), "total_bytes is .*, its tensors give"),
    ],
)
def test_damaged_and_edited_plans_are_refused(change, message) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(edited(make(), change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"plan"', "null"])
def test_text_that_is_no_plan_is_refused(text) -> None:
    with pytest.raises(PlanError, match="plan: "):
        Plan.from_json(text)


def test_a_type_that_does_not_fit_its_rows_is_refused() -> None:
    plan = make("odd_rows", ftype="Q8_0")
    index = next(i for i, t in enumerate(plan.tensors) if t.name == "blk.0.ffn_up.weight")
    with pytest.raises(PlanError, match=r"blk\.0\.ffn_up\.weight cannot be Q4_K"):
        Plan.from_json(edited(plan, lambda d: set_type(d, index, "Q4_K")))


def test_files_that_cannot_be_written_or_read(tmp_path) -> None:
    with pytest.raises(OutputError, match="cannot write plan"):
        make().save(tmp_path / "missing" / "plan.json")
    with pytest.raises(PlanError, match="cannot read plan"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="no text, so no plan"):
        Plan.load(tmp_path / "plan.json")


def test_saving_replaces_an_older_plan(tmp_path) -> None:
    path = tmp_path / "plan.json"
    make(tier="quality").save(path)
    make(tier="mini").save(path)
    assert Plan.load(path).tier == "mini"


def test_the_hash_is_of_the_sorted_type_map() -> None:
    # printf 'a=Q8_0\nb=Q4_K\n' | sha256sum
    expected = "0918e7bc560cf9fba9c664abf5711f5ed57593684be157e04bc69de3d6026d07"
    types = [("b", GgmlType.Q4_K), ("a", GgmlType.Q8_0)]
    assert rules_sha256(types) == expected
    plan = make()
    assert plan.rules_sha256 == rules_sha256(plan.types.items())


def test_differences_between_plans() -> None:
    plan, other = make(ftype="Q8_0"), make(ftype="Q8_0", tensor_types=["^output=Q4_0"])
    other = replace(other, tensors=other.tensors[:-1])
    assert plan.differences(other) == (
        PlanDifference("output.weight", GgmlType.Q8_0, GgmlType.Q4_0, 139264, 73728),
        PlanDifference("blk.12.nextn.enorm.weight", GgmlType.F32, None, 1024, 0),
    )
    assert other.differences(plan)[-1] == PlanDifference(
        "blk.12.nextn.enorm.weight", None, GgmlType.F32, 0, 1024
    )
    assert plan.differences(plan) == ()


def test_a_summary_adds_up() -> None:
    plan = make(tier="quality")
    rows = {row.role: row for row in plan.summary_by_role()}
    assert Role.DENSE_FFN not in rows
    shared = rows[Role.SHARED_EXPERT]
    assert (shared.n_tensors, shared.types) == (18, {GgmlType.Q8_0: 18})
    assert (shared.n_elements, shared.nbytes, shared.bpw) == (18 * 65536, 18 * 69632, 8.5)
    assert sum(row.n_tensors for row in rows.values()) == len(plan.tensors)


def test_a_plan_knows_the_file_it_was_made_for() -> None:
    table = MODELS["qwen35moe_mtp"]()
    plan = make()
    plan.check_source(table.facts)
    for other in ("mixtral", "falcon"):
        with pytest.raises(PlanError, match="made for another file"):
            plan.check_source(MODELS[other]().facts)
    table.add("extra.weight", (32, 32), Role.OTHER)
    with pytest.raises(PlanError, match=r"lacks 1 tensors, the first is extra\.weight"):
        plan.check_source(table.facts)
