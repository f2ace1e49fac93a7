"""The base mixes against what llama-quantize of the pinned llama.cpp printed (golden files).

Regenerate with ``python tests/parity/compare_mix.py PATH/TO/llama-quantize --write-golden``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_native.errors import PlanError
from apex_native.plan import FileType, make_plan
from apex_native.plan.hparams import MixModel
from apex_native.plan.names import layer_number, weights_map_key
from apex_native.types import GgmlType, Role
from mix_models import MODELS
from mix_scenarios import SCENARIOS
from plan_tables import HIDDEN, Table, add_frame

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", MODELS)
def test_every_file_type_and_option_gives_llama_quantizes_types(name) -> None:
    golden = json.loads((GOLDEN / f"mix_{name}.json").read_text("utf-8"))
    expected = {
        label: [golden["letters"][letter] for letter in pattern]
        for pattern, labels in golden["scenarios"].items()
        for label in labels
    }
    assert set(expected) == {scenario.label for scenario in SCENARIOS}
    table = MODELS[name]()
    classification = table.classification
    for scenario in SCENARIOS:
        if not expected[scenario.label]:  # llama-quantize refuses
            with pytest.raises(PlanError, match="no fallback"):
                make_plan(classification, **scenario.plan_arguments)
            continue
        types = make_plan(classification, **scenario.plan_arguments).types
        assert [types[t].name for t in golden["tensors"]] == expected[scenario.label], scenario


def test_golden_files_know_the_order_of_processing() -> None:
    # llama-quantize prints tensors in weights_map order; ours must be the same order.
    for name in MODELS:
        printed = json.loads((GOLDEN / f"mix_{name}.json").read_text("utf-8"))["tensors"]
        assert printed == sorted(printed, key=weights_map_key)


def test_the_mix_does_not_depend_on_the_order_of_the_file() -> None:
    table = MODELS["llama_gqa"]()
    forward = make_plan(table.classification, ftype="Q4_K_M")
    table.tensors.reverse()
    backward = make_plan(table.classification, ftype="Q4_K_M")
    assert forward.types == backward.types
    assert [t.name for t in backward.tensors] == [t.name for t in reversed(forward.tensors)]


def test_a_rule_keeps_its_tensor_from_the_counters_of_the_mix() -> None:
    # Q3_K_M gives the first two attn_v it meets Q5_K; the third becomes second behind a rule.
    table = MODELS["llama_gqa"]()
    rule = r"^blk\.0\.attn_v\.weight$=Q8_0"
    types = make_plan(table.classification, ftype="Q3_K_M", tensor_types=[rule]).types
    found = [types[f"blk.{i}.attn_v.weight"].name for i in range(4)]
    assert found == ["Q8_0", "Q5_K", "Q5_K", "Q4_K"]


def test_an_expert_models_ffn_needs_a_layer_in_its_name() -> None:
    table = MODELS["mixtral"]()
    table.add("mm.ffn_down.weight", (HIDDEN, HIDDEN), Role.DENSE_FFN)
    with pytest.raises(PlanError, match=r"mm\.ffn_down\.weight.*no layer.*tensor-type rule"):
        make_plan(table.classification, ftype="Q4_K_M")
    plan = make_plan(table.classification, ftype="Q4_K_M", tensor_types=["^mm=Q8_0"])
    assert plan.types["mm.ffn_down.weight"] is GgmlType.Q8_0


def test_an_expert_models_layers_must_be_within_its_depth() -> None:
    table = MODELS["mixtral"]()
    table.add("blk.16.ffn_up.weight", (HIDDEN, HIDDEN), Role.DENSE_FFN)
    with pytest.raises(PlanError, match=r"layer in \[0, 16\).*found layer 16"):
        make_plan(table.classification, ftype="Q4_K_M")


@pytest.mark.parametrize(
    ("architecture", "n_layer", "heads", "n_expert", "is_70b"),
    [
        ("llama", 80, (64, 8), 0, True),
        ("llama", 80, (64, 64), 0, False),  # 65B
        ("llama", 80, (64, 8), 8, False),
        ("llama", 79, (64, 8), 0, False),
        ("qwen2", 80, (64, 64), 0, True),
        ("jais2", 68, (64, 8), 0, True),
        ("jais2", 80, (64, 8), 0, False),
        ("mistral3", 80, (64, 8), 0, False),
    ],
)
def test_which_models_count_as_70b(architecture, n_layer, heads, n_expert, is_70b) -> None:
    table = Table(architecture, n_layer)
    table.hparams(attention__head_count=heads[0], attention__head_count_kv=heads[1])
    table.hparams(expert_count=n_expert)
    assert MixModel.from_facts(table.facts).is_70b is is_70b


@pytest.mark.parametrize(
    ("n_head", "n_head_kv", "n_gqa"),
    [(32, 8, 4), (32, 0, 0), (32, (0, 8), 0), ((16, 32), (8, 8), 2), (32, None, 1), (0, None, 0)],
)
def test_grouped_queries_are_those_of_layer_0(n_head, n_head_kv, n_gqa) -> None:
    table = Table("arch", 2)
    table.hparam("attention.head_count", n_head)
    if n_head_kv is not None:
        table.hparam("attention.head_count_kv", n_head_kv)
    assert MixModel.from_facts(table.facts).n_gqa == n_gqa


def test_architectures_that_change_their_depth_while_loading() -> None:
    looped = Table("nanbeige", 10)
    looped.hparams(num_loops=3)
    assert MixModel.from_facts(looped.facts).n_layer_all == 30
    assert MixModel.from_facts(Table("graniteswitch", 10).facts).n_layer_all == 11
    single = Table("hunyuan-dense", 10)
    single.hparams(expert_count=1)
    assert MixModel.from_facts(single.facts).n_expert == 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blk.3.attn_q.weight", 3),
        ("blk.07x", 7),
        ("blk.-1.a", -1),
        ("v.blk.3.a", None),
        ("blk.x", None),
        ("output.weight", None),
    ],
)
def test_layer_numbers_are_what_sscanf_reads(name, layer) -> None:
    assert layer_number(name) == layer


def test_ftype_names_aliases_and_numbers() -> None:
    assert FileType.parse("q4_k_m") is FileType.Q4_K_M
    assert FileType.parse("Q3_K") is FileType.Q3_K_M
    assert FileType.parse("15") is FileType.Q4_K_M
    assert FileType.parse("0") is FileType.F32
    with pytest.raises(PlanError, match=r"did you mean.*Q4_K_M"):
        FileType.parse("Q4_K_N")
    with pytest.raises(PlanError, match="unknown file type '-1'"):
        FileType.parse("-1")


@pytest.mark.parametrize(
    ("ftype", "number"),
    [("Q4_K_M", 15), ("IQ2_M", 29), ("F16", 1), ("MXFP4_MOE", 38), ("BF16", 32), ("TQ2_0", 37)],
)
def test_general_file_type_is_the_number_of_the_base_mix(ftype, number) -> None:
    table = MODELS["llama_mha"]()
    plan = make_plan(table.classification, ftype=ftype)
    assert {e.key: (e.type.name, e.value) for e in plan.metadata}["general.file_type"] == (
        "UINT32",
        number,
    )


def test_copy_keeps_every_tensor_and_the_stated_file_type() -> None:
    table = MODELS["llama_mha"]()
    table.set("general.file_type", "I", 7)
    plan = make_plan(table.classification, ftype="COPY")
    assert plan.types == {t.name: t.info.type for t in table.tensors}
    assert plan.file_type == 7


def test_copy_guesses_the_file_type_as_llama_cpp_does() -> None:
    # 1025 = F16 with LLAMA_FTYPE_GUESSED, as llama-quantize COPY writes for this model.
    table = MODELS["llama_mha"]()
    assert make_plan(table.classification, ftype="COPY").file_type == 1025
    mxfp4 = Table("llama", 0, weight_type=GgmlType.MXFP4)
    add_frame(mxfp4, HIDDEN, HIDDEN)
    assert make_plan(mxfp4.classification, ftype="COPY").file_type == 1024
