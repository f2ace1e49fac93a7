"""The command line and Python decide the same, for every option and by default."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native.cli.options import PlanChoices
from apex_native.types import GgmlType
from cli_tools import invoke

TIER = ("--tier", "compact")
Places = tuple[Path, Path]
"""A file of rules and another model file."""


@dataclass(frozen=True)
class Case:
    """One call in both languages; arguments and keywords are made of the files' places."""

    option: str
    arguments: Callable[[Places], tuple[str | Path, ...]]
    keywords: Callable[[Places], dict[str, Any]]


def given(option: str, arguments: tuple[str, ...], **keywords: Any) -> Case:
    return Case(option, lambda _: arguments, lambda _: keywords)


CASES = (
    given("tier", TIER, tier="compact"),
    given("ftype", ("--type", "Q4_K_M"), ftype="Q4_K_M"),
    Case("like", lambda at: ("--like", at[1]), lambda at: {"like": at[1]}),
    given("semantics", (*TIER, "--semantics", "declared"), tier="compact", semantics="declared"),
    given("edges", (*TIER, "--edges", "1,1,2"), tier="compact", edges=apex.Edges(1, 1, 2)),
    given(
        "tensor_type",
        (*TIER, "--tensor-type", "attn_q=q8_0", "--tensor-type", "attn_k=q6_k"),
        tier="compact",
        tensor_types=("attn_q=q8_0", "attn_k=q6_k"),
    ),
    Case(
        "tensor_type_file",
        lambda at: (*TIER, "--tensor-type-file", at[0]),
        lambda at: {"tier": "compact", "tensor_types": at[0].read_text().split()},
    ),
    given(
        "output_tensor_type",
        (*TIER, "--output-tensor-type", "Q5_K"),
        tier="compact",
        output_tensor_type=GgmlType.Q5_K,
    ),
    given(
        "token_embedding_type",
        (*TIER, "--token-embedding-type", "Q5_K"),
        tier="compact",
        token_embedding_type=GgmlType.Q5_K,
    ),
    given("leave_output_tensor", (*TIER, "--leave-output-tensor"), tier="compact",
          leave_output_tensor=True),
    given("pure", ("--type", "Q4_K_M", "--pure"), ftype="Q4_K_M", pure=True),
    given("repair", (*TIER, "--repair"), tier="compact", repair=True),
    given("override_kv", (*TIER, "--override-kv", "a.b=int:3", "--override-kv", "c=str:d"),
          tier="compact", override_kv=("a.b=int:3", "c=str:d")),
    given("imatrix", ("--tier", "mini"), tier="mini"),
    given("prior", ("--tier", "mini", "--prior", "none"), tier="mini", prior="none"),
    given("prior", ("--tier", "mini", "--prior", "7"), tier="mini", prior="7"),
    given("strict", (*TIER, "--strict"), tier="compact", strict=True),
    given("model_name", (*TIER, "--model-name", "N"), tier="compact", about=apex.About(name="N")),
    given("base_model", (*TIER, "--base-model", "a/b"), tier="compact",
          about=apex.About(base_model="a/b")),
    given("license", (*TIER, "--license", "mit"), tier="compact",
          about=apex.About(license="mit")),
    given("quantized_by", (*TIER, "--quantized-by", "me"), tier="compact",
          about=apex.About(quantized_by="me")),
)  # fmt: skip


def test_every_option_has_a_case() -> None:
    # Python takes a source without the layers instead: test_pruning.py.
    options = {field.name for field in fields(PlanChoices)} - {"prune_layers"}
    assert {case.option for case in CASES} == options


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.option)
def test_the_command_line_and_python_make_the_same_plan(case: Case, tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text("ssm_out=q8_0\nffn_down_exps=q5_k\n")
    other = tmp_path / "other.gguf"
    with apex.open_gguf(apex.demo_model()) as source:
        apex.quantize(source, apex.make_plan(source, ftype="Q8_0"), other)
        keywords = case.keywords((rules, other))
        if "like" in keywords:
            keywords["like"] = apex.open_gguf(other)
        needs = keywords.get("tier") == "mini"
        imatrix = apex.load_imatrix(apex.demo_imatrix()) if needs else None
        ours = apex.make_plan(source, imatrix=imatrix, **keywords)
    arguments = case.arguments((rules, other))
    if imatrix is not None:
        arguments = (*arguments, "--imatrix", apex.demo_imatrix())
    shown = invoke("plan", apex.demo_model(), *arguments, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout) == json.loads(ours.to_json())


@pytest.mark.parametrize("prior", [None, "none"])
def test_the_command_line_and_python_write_the_same_file(prior: str | None, tmp_path: Path) -> None:
    """A matrix with an expert nobody saw, so that the prior matters to the bytes."""
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    matrix = apex.load_imatrix(apex.demo_imatrix())
    with apex.open_gguf(apex.demo_model()) as source:
        keywords: dict[str, Any] = {} if prior is None else {"prior": prior}
        plan = apex.make_plan(source, tier="mini", imatrix=matrix, **keywords)
        apex.quantize(source, plan, one, imatrix=matrix)
    options = () if prior is None else ("--prior", prior)
    done = invoke("quantize", apex.demo_model(), "--tier", "mini", *options,
                  "--imatrix", apex.demo_imatrix(), "-o", two)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert one.read_bytes() == two.read_bytes()
