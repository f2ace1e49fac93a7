"""Python arguments of the wrong kind: a path where it will do, a sentence where it will not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from cli_tools import write_experts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experts(tmp_path_factory.mktemp("model") / "tiny-bf16.gguf", n_layers=4, rows=64)


def test_a_path_does_wherever_a_file_or_a_matrix_is_wanted(model: Path, tmp_path: Path) -> None:
    with apex.open_gguf(model) as source:
        plan = apex.make_plan(source, ftype="Q8_0")
        manifest = apex.quantize(source, plan, tmp_path / "open.gguf")
    assert apex.make_plan(str(model), ftype="Q8_0") == plan
    assert apex.make_plan(model, like=model).types == apex.make_plan(model, ftype="COPY").types
    assert len(apex.classify(model).tensors) == len(plan.tensors)
    plan.save(tmp_path / "plan.json")
    by_path = apex.quantize(model, tmp_path / "plan.json", tmp_path / "path.gguf")
    assert by_path.tensors == manifest.tensors
    assert (tmp_path / "open.gguf").read_bytes() == (tmp_path / "path.gguf").read_bytes()


def test_an_importance_matrix_may_be_a_path() -> None:
    demo, matrix = apex.demo_model(), apex.demo_imatrix()
    loaded = apex.load_imatrix(matrix)
    by_path = apex.make_plan(demo, tier="mini", imatrix=matrix)
    assert by_path == apex.make_plan(demo, tier="mini", imatrix=loaded)
    merged = apex.merge_imatrices([matrix, loaded])
    name = next(iter(loaded.entries))
    assert (merged.entries[name].counts == 2 * loaded.entries[name].counts).all()


WRONG: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = {
    "plan of a number": (
        *(apex.make_plan, (7,), {"tier": "mini"}),
        "source: expected a GgufFile or a string or a path, found an int 7; give a path",
    ),
    "plan with a dict as matrix": (
        *(apex.make_plan, ("MODEL",), {"ftype": "Q8_0", "imatrix": {}}),
        "imatrix: expected an Imatrix or a string or a path, found a dict {}; give a path",
    ),
    "plan like a number": (
        *(apex.make_plan, ("MODEL",), {"like": 3}),
        "like: expected a GgufFile or a string or a path, found an int 3",
    ),
    "quantize by a tier's number": (
        *(apex.quantize, ("MODEL", 4, "out.gguf"), {}),
        "plan: expected a Plan or a string or a path, found an int 4; give what apex.make_plan",
    ),
    "collect with a path": (
        *(apex.collect_imatrix, ("model.gguf", "text"), {}),
        "model: expected a Model, found a string 'model.gguf'; load it with apex.load_model, or",
    ),
    "a corpus for a path": (
        *(apex.build_corpus, ("diverse", "model.gguf"), {}),
        "model: expected a Tokenizer, found a string 'model.gguf'; load it with apex.load_model",
    ),
    "save a path": (
        *(apex.save_imatrix, ("a.gguf", "b.gguf"), {}),
        "imatrix: expected an Imatrix, found a string 'a.gguf'; give what load_imatrix",
    ),
    "merge one path": (
        *(apex.merge_imatrices, ("a.gguf",), {}),
        "matrices: expected a list or a tuple, found a string 'a.gguf'; give a list of",
    ),
    "evaluate a number": (
        *(apex.evaluate, (None, [7], "text"), {}),
        "model: expected a string or a path or a ModelSource, found an int 7; give its path",
    ),
    "report of a number": (
        *(apex.report, (7, "folder"), {}),
        "results: expected a Results or an EvalResults or a string or a path, found an int 7",
    ),
    "a tier's number": (
        *(apex.make_plan, ("MODEL",), {"tier": 3}),
        "tier: expected a string or a path, found an int 3; give the name of a tier",
    ),
    "edges as a tuple": (
        *(apex.make_plan, ("MODEL",), {"tier": "mini", "edges": (1, 2, 3)}),
        "edges: expected an Edges, found a tuple (1, 2, 3); give apex.Edges(expert, near, ",
    ),
    "search in a path": (
        *(apex.search, ("MODEL", 10, ["a.txt"]), {}),
        "source: expected a GgufFile, found a string",
    ),
    "many by name": (
        *(apex.quantize_many, ("MODEL", ["mini"]), {}),
        "targets: expected a QuantizeTarget, found a string 'mini'; give apex.QuantizeTarget(",
    ),
    "offers for a name": (
        *(apex.row_offers, ("MODEL", "mini"), {}),
        "plan: expected a Plan, found a string 'mini'; give what apex.make_plan gave",
    ),
    "report of nothing": (
        *(apex.report, (None, "folder"), {}),
        "results: expected a Results or an EvalResults or a string or a path, found None; give",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_kind_is_a_sentence(case: str, model: Path) -> None:
    call, args, options, sentence = WRONG[case]
    with pytest.raises(TypeError) as raised:
        call(*(str(model) if arg == "MODEL" else arg for arg in args), **options)
    assert str(raised.value).startswith(sentence)
    assert "attribute" not in str(raised.value)


def test_a_text_is_not_read_letter_by_letter(model: Path) -> None:
    with apex.open_gguf(model) as source:
        with pytest.raises(TypeError, match="texts: expected a list or a tuple, found a string"):
            apex.search(source, 10**6, "chat.txt")
        with pytest.raises(TypeError, match="budgets: expected an int or a list or a tuple, found"):
            apex.search(source, "10MiB", ["chat.txt"])
    with pytest.raises(apex.GgufError, match=r"nope\.gguf"):
        apex.bench("nope.gguf")


def test_a_tier_file_may_be_a_path(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(apex.plan.tier_text("quality"))
    assert apex.make_plan(model, tier=path).types == apex.make_plan(model, tier="quality").types


def test_what_is_no_plan_or_no_checkpoint_is_called_so(model: Path, tmp_path: Path) -> None:
    with pytest.raises(apex.PlanError, match="no text, so no plan"):
        apex.Plan.load(model)
    with pytest.raises(apex.PlanError, match="cannot read plan quality: No such file"):
        apex.quantize(model, "quality", tmp_path / "o.gguf")
    with pytest.raises(apex.CheckpointError, match="is a file, expected a checkpoint's folder"):
        apex.open_checkpoint(model)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(TypeError, match="…; give a path") as raised:
        apex.make_plan(list(range(1000)), tier="mini")  # type: ignore[arg-type]
    assert len(str(raised.value)) < 250
