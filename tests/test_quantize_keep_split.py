"""``--keep-split``: the output is cut where the source is, as llama-quantize cuts it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.errors import OutputError
from cli_tools import invoke
from model_kinds import write_kind


@pytest.fixture(scope="module")
def first_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind("first shard", tmp_path_factory.mktemp("shards"))


def names_by_shard(path: Path) -> list[list[str]]:
    with apex.open_gguf(path) as file:
        n_shards = len(file.shard_paths)
        return [[t.name for t in file.facts.tensors if t.shard == i] for i in range(n_shards)]


def test_shards_are_kept_and_hold_the_bytes_of_one_file(first_shard: Path, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole.gguf", tmp_path / "split.gguf"
    done = invoke("quantize", first_shard, "--type", "Q8_0", "-o", whole)
    assert done.exit_code == 0, done.stderr
    done = invoke("quantize", first_shard, "--type", "Q8_0", "--keep-split", "-o", split)
    assert done.exit_code == 0, done.stderr
    first = tmp_path / "split-00001-of-00003.gguf"
    assert names_by_shard(first) == names_by_shard(first_shard)
    with apex.open_gguf(whole) as one, apex.open_gguf(first) as three:
        assert [t.name for t in one.tensors] == [t.name for t in three.tensors]
        for tensor in one.tensors:
            assert (one.tensor_bytes(tensor.name) == three.tensor_bytes(tensor.name)).all()


def test_a_dry_run_names_the_shards(first_shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.gguf"
    options = ("--type", "Q8_0", "--keep-split", "-o", out, "--dry-run")
    shown = invoke("quantize", first_shard, *options)
    assert shown.exit_code == 0, shown.stderr
    assert "split-00003-of-00003.gguf" in shown.stdout


def test_there_must_be_a_split_to_keep(first_shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    plan = apex.make_plan(apex.demo_model(), ftype="Q8_0")
    with pytest.raises(OutputError, match="the source is one file, there is no split to keep"):
        apex.quantize(apex.demo_model(), plan, out, keep_split=True)
    both = ("--keep-split", "--split-max-size", "1M")
    refused = invoke("quantize", first_shard, "--type", "Q8_0", *both, "-o", out)
    assert refused.exit_code == 1
    assert "--keep-split and --split-max-size are two ways to cut" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_the_shards_are_llama_quantizes(
    reference_tools: Path, first_shard: Path, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    tool = reference_tools / "llama-quantize"
    command = [str(word) for word in (tool, "--keep-split", first_shard, theirs, "Q8_0")]
    subprocess.run(command, check=True, capture_output=True)
    done = invoke("quantize", first_shard, "--type", "Q8_0", "--keep-split", "-o", ours)
    assert done.exit_code == 0, done.stderr
    shards = [tmp_path / f"{path.stem}-00001-of-00003.gguf" for path in (ours, theirs)]
    a, b = map(names_by_shard, shards)
    assert [sorted(names) for names in a] == [sorted(names) for names in b]
