"""``--override-kv``: the syntax and the pairs of llama-quantize, and a plan that knows of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.errors import PlanError
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.plan import make_plan
from apex_native.plan.overrides import parse_override
from cli_tools import invoke
from mix_models import MODELS

U32, F32, BOOL, STRING = (
    GgufValueType.UINT32,
    GgufValueType.FLOAT32,
    GgufValueType.BOOL,
    GgufValueType.STRING,
)
OVERRIDES = {
    "x.count=int:7": (U32, 7),
    "x.count=int:-7": (U32, 7),  # as llama-quantize, which writes the absolute value
    "x.scale=float:0.5": (F32, 0.5),
    "x.on=bool:true": (BOOL, True),
    "x.off=bool:false": (BOOL, False),
    "general.name=str:My = own: name": (STRING, "My = own: name"),
    "x.empty=str:": (STRING, ""),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_overrides_become_the_pairs_that_llama_quantize_writes(text: str) -> None:
    type, value = OVERRIDES[text]
    assert parse_override(text) == MetadataEntry(text.partition("=")[0], type, value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", "expected KEY=TYPE:VALUE"),
        ("=int:3", "expected KEY=TYPE:VALUE"),
        ("x=3", "expected KEY=TYPE:VALUE"),
        ("x=u32:3", "expected KEY=TYPE:VALUE"),
        ("x=int:three", "'three' is no int"),
        ("x=bool:yes", "'yes' is no bool"),
        ("x=float:", "'' is no float"),
        ("x=int:4294967296", "beyond the 32 bits"),
        ("x=float:1e39", "no finite number of 32 bits"),
        ("x=float:nan", "no finite number of 32 bits"),
        (f"{'k' * 128}=int:1", "longer than 127 bytes"),
        (f"x=str:{'v' * 128}", "at most 127 bytes"),
    ],
)
def test_what_is_no_override_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        parse_override(text)


def test_the_plan_is_made_with_the_overridden_values() -> None:
    table = MODELS["llama_70b"]()
    layers = make_plan(table.classification, ftype="Q4_K_M").n_layer
    cut = make_plan(
        table.classification, ftype="Q4_K_M", override_kv=[f"llama.block_count=int:{layers - 1}"]
    )
    assert cut.n_layer == layers - 1
    assert [e.value for e in cut.metadata if e.key == "llama.block_count"] == [layers - 1]


def test_files_hold_the_overrides_and_the_same_weights(tmp_path: Path) -> None:
    paths = [tmp_path / "plain.gguf", tmp_path / "own.gguf"]
    own = ("--override-kv", "general.name=str:Mine", "--override-kv", "general.file_type=int:99")
    for path, options in zip(paths, ((), own), strict=True):
        done = invoke("quantize", apex.demo_model(), "--type", "Q4_0", *options, "-o", path)
        assert done.exit_code == 0, done.stderr
    with apex.open_gguf(paths[0]) as plain, apex.open_gguf(paths[1]) as changed:
        assert changed.metadata["general.name"] == "Mine"
        assert changed.metadata["general.file_type"] == 99
        for tensor in plain.tensors:
            assert (plain.tensor_bytes(tensor.name) == changed.tensor_bytes(tensor.name)).all()


def test_the_metadata_is_llama_quantizes(reference_tools: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    options = [word for text in OVERRIDES for word in ("--override-kv", text)]
    command = [reference_tools / "llama-quantize", *options, apex.demo_model(), theirs, "Q4_0"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    done = invoke("quantize", apex.demo_model(), "--type", "Q4_0", *options, "-o", ours)
    assert done.exit_code == 0, done.stderr
    with apex.open_gguf(ours) as a, apex.open_gguf(theirs) as b:
        keys = {text.partition("=")[0] for text in OVERRIDES}
        assert {k: a.encoded_pair(k) for k in keys} == {k: b.encoded_pair(k) for k in keys}
