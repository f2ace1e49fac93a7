"""``--prune-layers``: a model without some layers, and what is left of its importance matrix."""

from __future__ import annotations

import subprocess
from math import prod
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.errors import GgufError
from apex_native.pruning import PrunedSource
from apex_native.weights import WeightSource
from cli_tools import invoke


def test_layers_move_up_and_keep_their_weights(tmp_path: Path) -> None:
    output = tmp_path / "pruned.gguf"
    done = invoke("quantize", apex.demo_model(), "--type", "F32", "--prune-layers", "2,5",
                  "-o", output)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    old_of = dict(enumerate([0, 1, 3, 4, 6, 7]))
    with apex.open_gguf(apex.demo_model()) as whole, apex.open_gguf(output) as left:
        assert left.metadata["qwen35moe.block_count"] == 6
        assert len(left.tensors) < len(whole.tensors)
        for tensor in left.tensors:
            name = tensor.name
            if name.startswith("blk."):
                _, layer, rest = name.split(".", 2)
                name = f"blk.{old_of[int(layer)]}.{rest}"
            old = next(t for t in whole.tensors if t.name == name)
            assert (prod(old.shape), old.type.is_float) == (prod(tensor.shape), True)
            if old.type is tensor.type:
                assert (whole.tensor_bytes(name) == left.tensor_bytes(tensor.name)).all()


def test_the_matrix_goes_with_the_layers(tmp_path: Path) -> None:
    options = ("--type", "Q3_K_M", "--pure", "--imatrix", apex.demo_imatrix())
    paths = [tmp_path / "whole.gguf", tmp_path / "pruned.gguf"]
    for path, more in zip(paths, ((), ("--prune-layers", "0")), strict=True):
        done = invoke("quantize", apex.demo_model(), *options, *more, "-o", path)
        assert done.exit_code == 0, done.stderr
    with apex.open_gguf(paths[0]) as whole, apex.open_gguf(paths[1]) as left:
        for part in ("ffn_up_exps", "ffn_down_shexp"):
            one = whole.tensor_bytes(f"blk.4.{part}.weight")
            assert (one == left.tensor_bytes(f"blk.3.{part}.weight")).all()


def test_a_plan_shows_the_pruned_model() -> None:
    shown = invoke("plan", apex.demo_model(), "--type", "Q8_0", "--prune-layers", "7")
    assert shown.exit_code == 0, shown.stderr
    assert "expert_up" in shown.stdout
    with apex.open_gguf(apex.demo_model()) as file:
        source = PrunedSource(file, [7])
        assert isinstance(source, WeightSource)
        plan = apex.make_plan(source, ftype="Q8_0")
        assert plan.n_layer == 7
        assert f"{plan.total_bytes:,} bytes" in shown.stdout
        assert source.fingerprint() != PrunedSource(file, [6]).fingerprint()


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with apex.open_gguf(apex.demo_model()) as file:
        with pytest.raises(GgufError, match="there is no layer 8 to leave out"):
            PrunedSource(file, [3, 8])
        with pytest.raises(GgufError, match="no layer would be left"):
            PrunedSource(file, range(8))
    for layers in ("", "a", "-1", "1,,2"):
        refused = invoke("plan", apex.demo_model(), "--type", "Q8_0", f"--prune-layers={layers}")
        assert refused.exit_code == 2, layers


def test_the_file_is_llama_quantizes(reference_tools: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    options = ("--prune-layers", "2,5")
    command = [reference_tools / "llama-quantize", *options, apex.demo_model(), theirs, "Q4_K_M"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    done = invoke("quantize", apex.demo_model(), "--type", "Q4_K_M", *options, "-o", ours)
    assert done.exit_code == 0, done.stderr
    with apex.open_gguf(ours) as a, apex.open_gguf(theirs) as b:
        names = {tensor.name for tensor in a.tensors}
        assert names == {tensor.name for tensor in b.tensors}
        for name in names:
            assert (a.tensor_bytes(name) == b.tensor_bytes(name)).all(), name
