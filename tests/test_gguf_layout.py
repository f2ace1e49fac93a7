from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from apex_native.errors import PlanError
from apex_native.gguf_layout import (
    FileLayout,
    GgufValueType,
    MetadataEntry,
    layout_file,
    layout_shards,
    ne_order,
    padded,
    shard_file_name,
    shard_metadata,
    split_tensors,
    tensor_entry_bytes,
)
from mix_models import MODELS
from plan_tables import encode_kv, qwen35_35b, write_gguf


@dataclass(frozen=True)
class Sized:
    name: str
    shape: tuple[int, ...]
    nbytes: int


def sized(*nbytes: int) -> list[Sized]:
    return [Sized(f"t{i}", (n,), n) for i, n in enumerate(nbytes)]


@pytest.mark.parametrize(
    ("type", "code", "value"),
    [
        (GgufValueType.UINT32, "I", 7),
        (GgufValueType.INT32, "i", -7),
        (GgufValueType.FLOAT32, "f", 0.5),
        (GgufValueType.BOOL, "?", True),
        (GgufValueType.STRING, "s", "naïve"),
        (GgufValueType.UINT32, "I", (1, 2, 3)),
        (GgufValueType.STRING, "s", ("a", "bc", "")),
        (GgufValueType.BOOL, "?", (True, False)),
    ],
)
def test_entry_size_is_the_length_of_its_encoding(type, code, value) -> None:
    assert MetadataEntry("some.key", type, value).nbytes == len(encode_kv("some.key", code, value))


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (True, GgufValueType.BOOL),
        (3, GgufValueType.UINT32),
        (2**32 - 1, GgufValueType.UINT32),
        (-1, GgufValueType.INT32),
        (2**32, GgufValueType.UINT64),
        (-(2**31) - 1, GgufValueType.INT64),
        (0.5, GgufValueType.FLOAT32),
        ("x", GgufValueType.STRING),
        ((1, -1), GgufValueType.INT32),
        ((True, False), GgufValueType.BOOL),
    ],
)
def test_inferred_types(value, type) -> None:
    assert MetadataEntry.infer("k", value).type is type


@pytest.mark.parametrize("value", [(), (1, True), (1, "a"), (1, 0.5), 2**64, None])
def test_values_without_a_gguf_type_are_refused(value) -> None:
    with pytest.raises(PlanError, match="k"):
        MetadataEntry.infer("k", value)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (GgufValueType.UINT32, -1),
        (GgufValueType.UINT16, 65536),
        (GgufValueType.UINT32, True),
        (GgufValueType.UINT32, 1.0),
        (GgufValueType.BOOL, 1),
        (GgufValueType.STRING, 1),
        (GgufValueType.FLOAT32, "1"),
        (GgufValueType.FLOAT32, True),
        (GgufValueType.FLOAT32, 1e39),
        (GgufValueType.ARRAY, (1,)),
    ],
)
def test_values_that_do_not_fit_their_type_are_refused(type, value) -> None:
    with pytest.raises(PlanError, match=r"a\.key"):
        MetadataEntry("a.key", type, value)


@pytest.mark.parametrize(
    ("shape", "ne"),
    [
        ((4,), (4,)),
        ((3, 4), (4, 3)),
        ((1, 4), (4,)),
        ((1, 3, 4), (4, 3)),
        ((4, 1), (1, 4)),
        ((1, 1), (1,)),
        ((2, 1, 4), (4, 1, 2)),
    ],
)
def test_ne_order_reverses_and_drops_trailing_ones(shape, ne) -> None:
    assert ne_order(shape) == ne


def test_tensor_entry_counts_the_dimensions_that_are_stored() -> None:
    fixed = len(struct.pack("<Q", 3) + b"abc" + struct.pack("<I", 2) + struct.pack("<iQ", 0, 0))
    assert tensor_entry_bytes("abc", (3, 4)) == fixed + 16
    assert tensor_entry_bytes("abc", (1, 4)) == fixed + 8


@pytest.mark.parametrize("name", ["mixtral", "odd_rows", "gemma3n"])
def test_layout_predicts_a_file_written_independently(name, tmp_path) -> None:
    table = MODELS[name]()
    path = tmp_path / "model.gguf"
    header = write_gguf(table, path)
    layout = layout_file(table.facts.tensors, sum(table.facts.kv_sizes.values()))
    assert layout.header_bytes == header
    assert layout.total_bytes == path.stat().st_size


def test_layout_of_a_real_models_header() -> None:
    # The header of Qwen3.5-35B-A3B in F16 (733 tensors, 24 keys) ends at 47344 and is padded.
    facts = qwen35_35b().facts
    layout = layout_file(facts.tensors, sum(facts.kv_sizes.values()))
    assert layout.header_bytes == 47360
    assert layout.offsets[1:3] == (1017118720, 2034237440)


def test_the_last_tensor_is_padded_too() -> None:
    layout = layout_file(sized(5, 33, 1), kv_bytes=0)
    assert layout.offsets == (0, 32, 96)
    assert layout.data_bytes == 128
    assert layout.total_bytes == padded(24 + 3 * tensor_entry_bytes("t0", (5,))) + 128


def test_a_file_without_tensors_is_its_header() -> None:
    assert layout_file([], 9) == FileLayout(64, (), 0)


def test_split_by_size_is_greedy_and_counts_padding() -> None:
    # 33 is stored as 64, so 33 + 32 + 32 fill 128 exactly.
    assert split_tensors(sized(33, 32, 32, 1), max_bytes=128) == (range(3), range(3, 4))


def test_split_gives_a_large_tensor_a_shard_of_its_own() -> None:
    assert split_tensors(sized(500, 32, 500, 32), max_bytes=100) == (
        range(1),
        range(1, 2),
        range(2, 3),
        range(3, 4),
    )


def test_split_by_count() -> None:
    assert split_tensors(sized(*[1] * 5), max_tensors=2) == (range(2), range(2, 4), range(4, 5))


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_bytes": 1, "max_tensors": 1}, {"max_bytes": 0}, {"max_tensors": -1}],
)
def test_split_needs_one_positive_limit(limits) -> None:
    with pytest.raises(PlanError, match="one positive limit"):
        split_tensors(sized(1), **limits)


def test_split_count_must_fit_16_bits() -> None:
    with pytest.raises(PlanError, match="65536 shards"):
        split_tensors(sized(*[1] * 65536), max_tensors=1)


def test_only_the_first_shard_carries_the_models_metadata() -> None:
    tensors = sized(64, 64, 32)
    shards = split_tensors(tensors, max_tensors=2)
    first, second = layout_shards(tensors, shards, kv_bytes=1000)
    # split.no and split.count (u16), split.tensors.count (i32): 8 + key + 4 + value each.
    split_kv = (8 + 8 + 4 + 2) + (8 + 11 + 4 + 2) + (8 + 19 + 4 + 4)
    entry = 8 + 2 + 4 + 8 + 4 + 8
    assert first.header_bytes == padded(24 + 1000 + split_kv + 2 * entry)
    assert second.header_bytes == padded(24 + split_kv + entry)
    assert (first.offsets, second.offsets) == ((0, 64), (0,))


def test_shard_names_and_keys_count_as_gguf_split_does() -> None:
    assert shard_file_name("out/model", 0, 12) == "out/model-00001-of-00012.gguf"
    assert [(e.key, e.type.name, e.value) for e in shard_metadata(2, 12, 733)] == [
        ("split.no", "UINT16", 2),
        ("split.count", "UINT16", 12),
        ("split.tensors.count", "INT32", 733),
    ]
