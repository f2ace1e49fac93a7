"""Recipes by tensor and layer: written, read again, used on a model of another depth."""

from __future__ import annotations

from pathlib import Path

import pytest

import apex_native as apex
from apex_native.allocation import recipe_text
from apex_native.errors import PlanError
from apex_native.plan.layer_types import LayerTypes
from apex_native.plan.tier import parse_tier
from apex_native.types import GgmlType

T = GgmlType

HEADER = """
schema_version = 1
name = "mine"
base = "Q8_0"
imatrix = "optional"
[rules]
[mtp]
position = "edge"
other = "Q6_K"
[mtp.projections]
"""


def test_a_plan_comes_back_from_its_recipe(tmp_path: Path) -> None:
    with apex.open_gguf(apex.demo_model()) as source:
        types = {
            tensor.name: (T.Q4_K, T.Q6_K, T.Q8_0, T.Q3_K, T.BF16)[i % 5]
            for i, tensor in enumerate(source.tensors)
        }
        plan = apex.make_plan(source, like=types)
        path = tmp_path / "mine.toml"
        path.write_text(recipe_text(plan, "mine"))
        for semantics in ("published", "declared"):
            again = apex.make_plan(source, tier=str(path), semantics=semantics)
            assert again.types == plan.types


def test_a_deeper_model_takes_the_types_of_the_same_depth() -> None:
    layers = LayerTypes(
        5, {"ffn_up.weight": dict(enumerate([T.Q8_0, T.Q6_K, T.Q5_K, T.Q4_K, T.Q3_K]))}, {}
    )
    found = [layers.type_for(f"blk.{i}.ffn_up.weight", 9) for i in range(9)]
    assert [pair[0] for pair in found if pair] == [
        *(T.Q8_0, T.Q8_0, T.Q6_K, T.Q6_K, T.Q5_K, T.Q5_K, T.Q4_K, T.Q4_K, T.Q3_K),
    ]
    shallow = [layers.type_for(f"blk.{i}.ffn_up.weight", 2) for i in range(2)]
    assert [pair[0] for pair in shallow if pair] == [T.Q8_0, T.Q3_K]
    assert layers.type_for("blk.0.ffn_down.weight", 9) is None
    assert layers.type_for("output.weight", 9) is None


def test_a_tensor_type_rule_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEADER + '[layers]\nn_layer = 8\n[layers.tensors]\n"output.weight" = "Q4_K"\n')
    with apex.open_gguf(apex.demo_model()) as source:
        plain = apex.make_plan(source, tier=str(path))
        ruled = apex.make_plan(source, tier=str(path), tensor_types=["^output.weight$=Q5_K"])
    assert plain.types["output.weight"] is T.Q4_K
    assert ruled.types["output.weight"] is T.Q5_K
    assert plain.types["token_embd.weight"] is T.Q8_0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("n_layer = 0", "layers.n_layer must be a positive integer, found 0"),
        ("n_layer = 8\nsome = 1", "layers.some is no known key"),
        ('n_layer = 8\n[layers.tensors]\n"output.weight" = "Q9_K"', "unknown ggml type 'Q9_K'"),
        ('n_layer = 8\n[layers.tensors]\n"output.weight" = "I32"', "cannot be written as I32"),
        ('n_layer = 8\n[layers.parts.up]\nQ4_K = "3-9"', "names layers 3-9 of a model of 8"),
        ('n_layer = 8\n[layers.parts.up]\nQ4_K = "5-3"', "names layers 5-3 of a model of 8"),
        ('n_layer = 8\n[layers.parts.up]\nQ4_K = "all"', "must be layers as '0-3,7', found 'all'"),
        ("n_layer = 8\n[layers.parts.up]\nQ4_K = 3", "must be layers as '0-3,7', found 3"),
        (
            'n_layer = 8\n[layers.parts.up]\nQ4_K = "0-3"\nQ5_K = "3"',
            "layers.parts.up names layer 3 twice",
        ),
    ],
)
def test_a_damaged_table_is_named(layers: str, message: str) -> None:
    with pytest.raises(PlanError, match=r"mine\.toml") as error:
        parse_tier(HEADER + "[layers]\n" + layers, source="mine.toml")
    assert message in str(error.value)
