"""Rows that are no multiples of 256: tiers in types of short blocks, and what `plan` offers."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex_native as apex
from apex_native.cli.choices import show_offers
from apex_native.plan import FindingKind, Plan, make_plan
from apex_native.plan.short_blocks import _RMSE, TooShort, short_types, types_for_rows
from apex_native.types import GgmlType, Role
from cli_tools import invoke
from plan_tables import Table, add_attention, add_experts, add_frame, qwen35_35b, write_gguf
from test_cli_tables import Terminal
from test_plan_tier_audit import nemotron_like, only, planned


def meant_bits(plan: Plan) -> float:
    """Of the tensors that a tier decides, in the types it asks for."""
    return sum(t.n_elements * t.wanted.bpw for t in plan.tensors)


def bits(plan: Plan) -> float:
    return sum(t.n_elements * t.type.bpw for t in plan.tensors)


@pytest.mark.parametrize("tier", ["quality", "balanced", "i-quality", "i-balanced"])
def test_a_tier_in_short_blocks_has_the_size_it_means(tier: str) -> None:
    meant = meant_bits(planned(nemotron_like(), tier))
    plan = planned(nemotron_like(), f"{tier}-short")
    assert plan.tier == f"{tier}-short"
    assert 0.98 * meant < bits(plan) <= meant
    assert not [t for t in plan.tensors if t.type is not t.wanted]
    kinds = {finding.kind for finding in plan.findings}
    assert not kinds & {FindingKind.TIER_UNREACHED, FindingKind.SHAPE_FALLBACK}


@pytest.mark.parametrize("tier", ["compact", "mini", "nano", "micro"])
def test_a_size_below_the_smallest_types_squeezes_no_weight_below_its_bits(tier: str) -> None:
    wide = planned(nemotron_like(), tier)
    plan = planned(nemotron_like(), f"{tier}-short")
    assert meant_bits(wide) < bits(plan) < bits(wide)
    for before, after in zip(wide.tensors, plan.tensors, strict=True):
        assert after.type.bpw >= before.wanted.bpw, after.name
    said = [f.message for f in plan.findings if f.kind is FindingKind.TIER_VARIANT][-1]
    assert "rows of 1856, 2688 and get types of short blocks" in said


def test_outer_layers_get_no_fewer_bits_than_inner_ones() -> None:
    plan = planned(nemotron_like(), "quality-short")
    for part in ("ffn_up_exps", "ffn_down_exps"):
        by_layer = [plan.types[f"blk.{layer}.{part}.weight"].bpw for layer in range(6)]
        assert by_layer[0] >= by_layer[1] >= by_layer[2]
        assert by_layer[5] >= by_layer[4] >= by_layer[3]
    assert plan.types["blk.0.ffn_up_exps.weight"] is not plan.types["blk.2.ffn_up_exps.weight"]


def test_rows_that_fit_make_the_tier_itself() -> None:
    plan = planned(qwen35_35b(), "quality-short")
    assert plan.types == planned(qwen35_35b(), "quality").types
    said = [f.message for f in plan.findings if f.kind is FindingKind.TIER_VARIANT]
    assert said == ["all rows fit the tier's types: the file is the same without short blocks"]


def test_a_rule_of_the_users_comes_first() -> None:
    plan = planned(nemotron_like(), "quality-short", tensor_types=["ffn_up_exps=q4_0"])
    assert {t.type for t in plan.tensors if "ffn_up_exps" in t.name} == {GgmlType.Q4_0}


def test_a_tier_file_can_say_so_itself(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = invoke("tiers", "quality-short").stdout
    path.write_text(text)
    own = make_plan(nemotron_like().classification, tier=str(path))
    assert own.types == planned(nemotron_like(), "quality-short").types
    assert own.tier == "quality-short"
    path.write_text(text.replace("short_blocks = true", 'short_blocks = "yes"'))
    with pytest.raises(apex.PlanError, match="short_blocks must be bool"):
        make_plan(nemotron_like().classification, tier=str(path))


WANTED = [GgmlType.Q6_K, GgmlType.Q4_K, GgmlType.Q5_K]


@given(
    st.lists(st.tuples(st.sampled_from(WANTED), st.integers(1, 9)), min_size=1, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_no_choice_of_types_in_the_same_bytes_is_better_but_for_one_step(
    items: list[tuple[GgmlType, int]],
) -> None:
    tensors = [
        TooShort(f"blk.{i}.x", wanted, 96, 960 * n, i) for i, (wanted, n) in enumerate(items)
    ]
    chosen = short_types(tensors, len(tensors))
    types = types_for_rows([96])

    def cost(t: TooShort, type: GgmlType) -> float:
        return t.n_elements * (_RMSE[type.name] / _RMSE[t.wanted.name]) ** 2

    room = sum(t.n_elements * t.wanted.bpw for t in tensors)
    best = min(
        sum(cost(t, type) for t, type in zip(tensors, row, strict=True))
        for row in product(types, repeat=len(tensors))
        if sum(t.n_elements * y.bpw for t, y in zip(tensors, row, strict=True)) <= room
    )
    ours = sum(cost(t, chosen[t.name]) for t in tensors)
    step = max(cost(t, GgmlType.MXFP4) for t in tensors)
    assert sum(t.n_elements * chosen[t.name].bpw for t in tensors) <= room
    assert best <= ours * (1 + 1e-12) <= best + step + 1e-9


def test_types_for_rows_are_those_that_readers_open() -> None:
    assert [t.name for t in types_for_rows([2688, 1856])] == [
        *("MXFP4", "Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    ]
    assert types_for_rows([100]) == ()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A header of a model with rows of 2688 and 1856, and a hole where its weights are."""
    path = tmp_path_factory.mktemp("narrow") / "narrow-bf16.gguf"
    write_gguf(nemotron_like(), path)
    return path


def test_what_plan_offers_can_be_copied(narrow: Path) -> None:
    shown = json.loads(invoke("plan", narrow, "--tier", "i-compact", "--json").stdout)
    offers = shown["offers"]
    assert offers["rows"] == [1856, 2688]
    assert offers["stand_in"] == ["--tier", "i-compact-short"]
    sizes = [offer["total_bytes"] for offer in offers["recipes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 10
    assert min(sizes) < shown["total_bytes"] < max(sizes)
    for offer in offers["recipes"]:
        again = json.loads(invoke("plan", narrow, *offer["options"], "--json").stdout)
        assert again["total_bytes"] == offer["total_bytes"], offer["options"]
        assert "offers" not in again


def test_the_offers_are_shown_within_80_columns(narrow: Path) -> None:
    plan = apex.make_plan(narrow, tier="compact")
    offers = apex.row_offers(narrow, plan)
    assert offers is not None
    for width in (80, 40):
        shown = StringIO()
        with redirect_stdout(shown):
            show_offers(Terminal(width), offers)
        table = shown.getvalue()
        assert max(map(len, table.splitlines())) <= width
        assert "--tier compact-short ←" in table
        assert "What rows of 1,856 and 2,688 allow" in table


def test_a_tier_that_fits_has_no_offers_and_text_names_the_list(narrow: Path) -> None:
    text = invoke("plan", narrow, "--tier", "quality").stdout
    assert "tier quality-short makes the most of them" in text
    assert "--type Q8_0 --tensor-type _exps=IQ4_NL" in text
    assert "What rows of" not in invoke("plan", narrow, "--tier", "quality-short").stdout
    plan = apex.make_plan(narrow, tier="quality-short")
    assert apex.row_offers(narrow, plan) is None


def test_the_table_of_all_recipes_has_the_short_ones(narrow: Path) -> None:
    shown = json.loads(invoke("plan", narrow, "--json").stdout)
    rows = {row["recipe"]: row["total_bytes"] for row in shown["choices"]}
    assert rows["i-quality-short"] < rows["i-quality"]
    assert rows["mini-short"] < rows["mini"]
    assert list(shown["left_out"]) == ["Q1_0"]  # blocks of 128, and llama.cpp has no fallback
    assert "Q1_0 cannot be made: " in invoke("plan", narrow).stdout
    named = json.loads(invoke("plan", narrow, "--compare", "mini-q3,nano-short", "--json").stdout)
    assert {row["recipe"] for row in named["choices"]} == {"mini-q3", "nano-short"}


def test_an_offer_is_quantized_to_its_size(tmp_path: Path) -> None:
    table = Table("qwen3moe", 2)
    table.hparams(
        embedding_length=288,
        attention__head_count=4,
        attention__head_count_kv=2,
        expert_count=4,
        expert_used_count=2,
    )
    add_frame(table, 288, 512)
    for layer in range(2):
        add_attention(table, layer, 288, 288, 96)
        add_experts(table, layer, 288, 96, 4)
    source = tmp_path / "narrow-bf16.gguf"
    write_gguf(table, source)
    plan = apex.make_plan(source, tier="quality")
    only(plan, FindingKind.TIER_UNREACHED)
    offers = apex.row_offers(source, plan)
    assert offers is not None
    assert offers.stand_in.plan.types["blk.0.ffn_up_exps.weight"].block_size == 32
    for offer in (offers.stand_in, offers.offers[0]):
        output = tmp_path / "out.gguf"
        apex.quantize(source, offer.plan, output, force=True)
        assert output.stat().st_size == offer.plan.total_bytes
    with apex.open_gguf(output) as file:
        tensors = apex.classify(file).tensors
        experts = {t.info.type for t in tensors if t.role is Role.EXPERT_UP}
    assert len(experts) == 1
