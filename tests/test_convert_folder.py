"""Folders that are no whole checkpoints: one sentence each, before any converter is asked."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_native.conversion.folder import check_folder
from apex_native.errors import CheckpointError
from cli_tools import run

WEIGHTS = "model-00001-of-00002.safetensors"
OTHER = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def safetensors(table: dict[str, Any], n_bytes: int) -> bytes:
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + bytes(n_bytes)


def entry(shape: list[int], begin: int, end: int, dtype: str = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (path / WEIGHTS).write_bytes(safetensors({"a": entry([2, 4], 0, 16)}, 16))
    (path / OTHER).write_bytes(safetensors({"b": entry([3], 0, 12, "F32")}, 12))
    (path / INDEX).write_text(json.dumps({"weight_map": {"a": WEIGHTS, "b": OTHER}}))
    return path


def test_a_whole_folder_has_its_shards(folder: Path) -> None:
    shards = check_folder(folder, allow_pickle=False)
    assert [shard.path.name for shard in shards] == [WEIGHTS, OTHER]
    assert [shard.missing for shard in shards] == [None, None]


def test_a_cut_off_shard_is_known_by_its_header(folder: Path) -> None:
    whole = (folder / OTHER).read_bytes()
    (folder / OTHER).write_bytes(whole[:-1])
    shards = check_folder(folder, allow_pickle=False)
    assert shards[0].missing is None
    assert f"{len(whole) - 1:,} of {len(whole):,} bytes" in str(shards[1].missing)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def weights(table: dict[str, Any], n_bytes: int = 64) -> Callable[[Path], object]:
    return lambda folder: (folder / WEIGHTS).write_bytes(safetensors(table, n_bytes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (text("config.json", "{"), "config.json: cannot be read"),
    "config is a list": (text("config.json", "[]"), "expected a table, found list"),
    "no architecture": (text("config.json", "{}"), "names no architecture"),
    "missing shard": (lambda f: (f / OTHER).unlink(), f"{OTHER} is missing"),
    "index names what is in no file": (
        text(INDEX, json.dumps({"weight_map": {"a": WEIGHTS, "b": OTHER, "c": OTHER}})),
        f"says that {OTHER} holds c, which no file does",
    ),
    "index lacks a tensor": (
        lambda f: (
            (f / OTHER).unlink(),
            weights({"a": entry([4], 0, 8), "x": entry([4], 8, 16)})(f),
            text(INDEX, json.dumps({"weight_map": {"a": WEIGHTS}}))(f),
        ),
        "holds x, of which .* knows nothing",
    ),
    "index without a table": (text(INDEX, "{}"), "has no table of files"),
    "index leads out of the folder": (
        text(INDEX, json.dumps({"weight_map": {"a": "../secret.safetensors"}})),
        "has no table of files beside it",
    ),
    "empty file": (lambda f: (f / WEIGHTS).write_bytes(b""), "no safetensors file"),
    "header cut off": (lambda f: (f / WEIGHTS).write_bytes(b"\xff\0\0\0\0\0\0\0{"), "cut off"),
    "header of 2^63 bytes": (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 16), "cut off"),
    "header is no JSON": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"\xff\xfe{}"),
        "header is damaged",
    ),
    "header is no table": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2) + b"[]"), "is no table"
    ),
    "unknown dtype": (weights({"a": entry([4], 0, 2, "F4")}), "a is of type 'F4'"),
    "shape and place disagree": (weights({"a": entry([4], 0, 9)}), "takes 8 bytes, .* has 9"),
    "negative size": (weights({"a": entry([-4], 0, -8)}), "download it again"),
    "no offsets": (weights({"a": {"dtype": "F32", "shape": [1]}}), "entry for 'a' is damaged"),
    "no weights": (
        lambda f: [(f / name).unlink() for name in (INDEX, WEIGHTS, OTHER)], "no weights there"
    ),
    "pickled": (
        lambda f: (
            [(f / name).unlink() for name in (INDEX, WEIGHTS, OTHER)],
            (f / "pytorch_model.bin").write_bytes(b"\x80"),
        ),
        "unpickling can run code",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_sentence(damage: str, folder: Path) -> None:
    make, said = DAMAGES[damage]
    make(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        check_folder(folder, allow_pickle=False)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_pickles_are_read_where_that_is_asked_for(folder: Path) -> None:
    DAMAGES["pickled"][0](folder)
    assert check_folder(folder, allow_pickle=True) == ()


def test_the_command_line_says_it_in_one_line(folder: Path) -> None:
    (folder / OTHER).unlink()
    for verb in (["inspect"], ["plan", "--type", "Q8_0"], ["convert"]):
        done = run(*verb, str(folder))
        assert done.returncode == 1
        assert f"{OTHER} is missing" in done.stderr
        assert "Traceback" not in done.stderr


def test_options_of_checkpoints_are_for_folders(tmp_path: Path) -> None:
    done = run("inspect", str(tmp_path / "model.gguf"), "--no-mtp")
    assert done.returncode == 2
    assert "--no-mtp" in done.stderr
