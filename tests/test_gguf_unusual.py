"""Files that are unusual and sound: empty tensors, unfinished downloads, odd shards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import gguf_builder as build
from apex_native.errors import GgufError
from apex_native.gguf import open_gguf
from cli_tools import invoke, write_experts
from gguf_builder import ValueType as V

WEIGHTS = np.arange(64, dtype=np.float32).reshape(2, 32)


def with_empty_tensors(path: Path) -> Path:
    """A weight, then a single number (no dimensions) and a tensor of 0 rows."""
    rows = [
        build.tensor_row("a.weight", (32, 2), build.F32, 0),
        build.tensor_row("a.scale", (), build.F32, 256),
        build.tensor_row("empty.weight", (32, 0), build.F16, 288),
        build.tensor_row("b.weight", (32, 2), build.F32, 288),
    ]
    data = WEIGHTS.tobytes() + np.float32(7).tobytes() + bytes(28) + WEIGHTS.tobytes()
    pairs = [build.pair("general.architecture", V.STRING, "llama")]
    path.write_bytes(build.file_bytes(pairs, rows, data))
    return path


def test_a_number_and_an_empty_tensor_are_read(tmp_path: Path) -> None:
    with open_gguf(with_empty_tensors(tmp_path / "m.gguf")) as file:
        shapes = {tensor.name: tensor.shape for tensor in file.tensors}
        assert shapes["a.scale"] == (1,)
        assert shapes["empty.weight"] == (0, 32)
        assert file.to_float32("a.scale").tolist() == [7]
        assert file.tensor_bytes("empty.weight").size == 0
        assert np.array_equal(file.to_float32("b.weight"), WEIGHTS)


def test_a_number_and_an_empty_tensor_are_quantized(tmp_path: Path) -> None:
    source, output = with_empty_tensors(tmp_path / "m.gguf"), tmp_path / "q.gguf"
    assert invoke("inspect", source, "--stats").exit_code == 0
    result = invoke("quantize", source, "--type", "Q8_0", "-o", output)
    assert result.exit_code == 0, result.stderr
    written = {tensor.name: tensor for tensor in GGUFReader(output).tensors}
    assert written["b.weight"].tensor_type.name == "Q8_0"
    assert written["a.scale"].data.tolist() == [7]
    with open_gguf(output) as file:
        assert {tensor.name: tensor.shape for tensor in file.tensors}["empty.weight"] == (0, 32)


# --- downloads that are not finished ------------------------------------------------------------


def test_an_unfinished_download_is_inspected_and_planned_but_not_quantized(tmp_path: Path) -> None:
    whole = write_experts(tmp_path / "whole.gguf", n_layers=2, rows=8)
    part = tmp_path / "part.gguf"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    inspected = invoke("inspect", part)
    assert inspected.exit_code == 0
    assert "bytes of its weights are there: can be planned, not quantized" in inspected.stdout
    plans = [invoke("plan", path, "--type", "Q8_0", "--json") for path in (whole, part)]
    assert [plan.exit_code for plan in plans] == [0, 0]
    assert plans[0].stdout.replace("whole.gguf", "part.gguf") == plans[1].stdout
    refused = invoke("quantize", part, "--type", "Q8_0", "-o", tmp_path / "q.gguf")
    assert refused.exit_code == 1
    assert "truncated" in refused.stderr
    assert "download the whole file" in refused.stderr
    assert not (tmp_path / "q.gguf").exists()


def test_what_an_unfinished_download_holds_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    names = ("a.weight", "b.weight")
    build.write_gguf(path, [build.f32_tensor(name, WEIGHTS) for name in names])
    os.truncate(path, path.stat().st_size - 1)
    with open_gguf(path) as file:
        assert not file.facts.has_data
        assert np.array_equal(file.to_float32("a.weight"), WEIGHTS)
        with pytest.raises(GgufError, match=r"'b\.weight' ends at byte"):
            file.tensor_bytes("b.weight")


# --- shards -------------------------------------------------------------------------------------


def write_set(folder: Path, alignment: int, second: list[build.Tensor]) -> Path:
    """Two shards padded to alignment, which only the first one states."""
    first = [build.f32_tensor("a.weight", WEIGHTS)]
    pairs = [build.pair("general.architecture", V.STRING, "llama")]
    own = [build.pair("general.alignment", V.U32, alignment)]
    for index, (tensors, more) in enumerate(((first, pairs + own), (second, []))):
        keys = [*more, *build.split_pairs(index, 2, 1 + len(second))]
        content = build.model_bytes(keys, tensors, alignment=alignment)
        build.shard_path(folder, index, 2).write_bytes(content)
    return build.shard_path(folder, 0, 2)


@pytest.mark.parametrize("alignment", [64, 256, 4096])
def test_a_shard_without_alignment_is_read_with_the_first_ones(
    tmp_path: Path, alignment: int
) -> None:
    odd = np.arange(96, dtype=np.float32).reshape(3, 32) + 0.5
    tensors = [build.f32_tensor(name, odd) for name in ("b.weight", "c.weight")]
    with open_gguf(write_set(tmp_path, alignment, tensors)) as file:
        for name in ("b.weight", "c.weight"):
            assert np.array_equal(file.to_float32(name), odd)


def test_a_single_tensor_is_placed_by_the_file_size(tmp_path: Path) -> None:
    # One tensor has offset 0 whatever the alignment: only the file's length tells where it begins.
    with open_gguf(write_set(tmp_path, 4096, [build.f32_tensor("b.weight", WEIGHTS)])) as file:
        assert np.array_equal(file.to_float32("b.weight"), WEIGHTS)


def test_a_shard_that_can_be_read_either_way_is_refused(tmp_path: Path) -> None:
    first = write_set(tmp_path, 4096, [build.f32_tensor("b.weight", WEIGHTS)])
    second = build.shard_path(tmp_path, 1, 2)
    os.truncate(second, second.stat().st_size + 7)
    with pytest.raises(GgufError, match=r"00002-of-00002.*can be read either way"):
        open_gguf(first)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    first = write_set(tmp_path, 32, [build.f32_tensor("b.weight", WEIGHTS)])
    build.shard_path(tmp_path, 1, 2).unlink()
    with pytest.raises(GgufError, match="shard 2 of 2 is not there; put all shards"):
        open_gguf(first)
