"""GGUF headers as bytes, against the test builder, and back through the reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguf_builder as build
from apex_native.gguf import open_gguf
from apex_native.gguf_encode import encode_entry, encode_header
from apex_native.gguf_layout import GgufValueType, MetadataEntry, layout_file
from apex_native.types import GgmlType

VALUES: dict[GgufValueType, tuple[bool | int | float | str, ...]] = {
    GgufValueType.UINT8: (0, 255),
    GgufValueType.INT8: (-128, 127),
    GgufValueType.UINT16: (0, 65535),
    GgufValueType.INT16: (-32768, 32767),
    GgufValueType.UINT32: (0, 2**32 - 1),
    GgufValueType.INT32: (-(2**31), 2**31 - 1),
    GgufValueType.FLOAT32: (0.5, -0.0),
    GgufValueType.BOOL: (True, False),
    GgufValueType.STRING: ("", "größe", "zero\0byte", "not text: \udcff"),
    GgufValueType.UINT64: (0, 2**64 - 1),
    GgufValueType.INT64: (-(2**63), 2**63 - 1),
    GgufValueType.FLOAT64: (0.1, float("inf")),
}


def as_stored(value: bool | float | str) -> build.Scalar:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


@dataclass(frozen=True)
class Sized:
    name: str
    shape: tuple[int, ...]
    nbytes: int


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.name)
def test_entries_of_every_type(kind: GgufValueType) -> None:
    for value in VALUES[kind]:
        entry = MetadataEntry("some.key", kind, value)
        encoded = encode_entry(entry)
        assert encoded == build.pair("some.key", build.ValueType(kind), as_stored(value))
        assert entry.nbytes == len(encoded)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [0, 1, 5000])
def test_arrays_of_every_type(kind: GgufValueType, n: int) -> None:
    values = (VALUES[kind] * 5000)[:n]
    entry = MetadataEntry("schlüssel", kind, values)
    encoded = encode_entry(entry)
    expected = [as_stored(value) for value in values]
    assert encoded == build.pair("schlüssel", build.ValueType(kind), expected)
    assert entry.nbytes == len(encoded)


def test_header_is_what_the_builder_writes() -> None:
    tensors = [Sized("a.weight", (4, 3, 32), 4 * 3 * 34), Sized("größe", (7,), 28)]
    types = [GgmlType.Q8_0, GgmlType.F32]
    pairs = [build.pair(f"k{i}", build.ValueType.U8, i) for i in range(5)]
    layout = layout_file(tensors, sum(map(len, pairs)))
    made = [
        build.Tensor(tensor.name, tensor.shape, type.id, bytes(tensor.nbytes))
        for tensor, type in zip(tensors, types, strict=True)
    ]
    header = encode_header(pairs, tensors, types, layout)
    assert header + bytes(layout.data_bytes) == build.model_bytes(pairs, made)
    assert len(header) == layout.header_bytes


@pytest.mark.parametrize("name_length", range(1, 34))
def test_padding_of_every_length(name_length: int) -> None:
    tensor = Sized("n" * name_length, (32,), 34)
    layout = layout_file([tensor], 0)
    header = encode_header([], [tensor], [GgmlType.Q8_0], layout)
    row = build.tensor_row(tensor.name, (32,), build.Q8_0, 0)
    assert header == build.file_bytes([], [row])


def test_trailing_ones_are_dropped_as_ggml_does() -> None:
    tensor = Sized("t", (1, 1, 3, 32), 384)
    layout = layout_file([tensor], 0)
    header = encode_header([], [tensor], [GgmlType.F32], layout)
    assert header == build.file_bytes([], [build.tensor_row("t", (32, 3), build.F32, 0)])


def test_round_trip_through_both_readers(tmp_path: Path) -> None:
    pairs = [
        encode_entry(MetadataEntry(f"k.{kind.name}", kind, values[0]))
        for kind, values in VALUES.items()
    ]
    tensors = [Sized("a", (2, 32), 256), Sized("b", (3, 32), 384)]
    layout = layout_file(tensors, sum(map(len, pairs)))
    weights = np.arange(160, dtype="<f4")
    path = tmp_path / "model.gguf"
    header = encode_header(pairs, tensors, [GgmlType.F32] * 2, layout)
    path.write_bytes(header + weights.tobytes())
    file = open_gguf(path)
    assert file.metadata == {f"k.{kind.name}": values[0] for kind, values in VALUES.items()}
    np.testing.assert_array_equal(file.to_float32("b").ravel(), weights[64:])
    second = gguf.GGUFReader(path)
    np.testing.assert_array_equal(second.tensors[1].data.ravel(), weights[64:])
    for kind, values in VALUES.items():
        assert second.fields[f"k.{kind.name}"].contents() == values[0]


@pytest.mark.parametrize("extra", [build.pair("k", build.ValueType.F64, [0.0] * 8), b""])
def test_pairs_that_do_not_fit_the_layout(extra: bytes) -> None:
    tensor = Sized("t", (32,), 128)
    layout = layout_file([tensor], 64)
    with pytest.raises(ValueError, match="the sizes of the key-value pairs do not match"):
        encode_header([extra], [tensor], [GgmlType.F32], layout)


def test_tables_of_different_length() -> None:
    tensor = Sized("t", (32,), 128)
    with pytest.raises(ValueError, match="shorter than"):
        encode_header([], [tensor], [], layout_file([tensor], 0))
