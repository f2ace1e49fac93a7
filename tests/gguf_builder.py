"""GGUF files byte by byte, from the format description; nothing of apex_native is used here.

The pieces (string, pair, tensor_row, file_bytes) are loose on purpose: a hostile file is made by
putting a wrong piece in a right place. write_gguf and write_shards make valid files.
Format: ggml/include/gguf.h of llama.cpp. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
F32, F16, Q8_0, Q4_K, I32, BF16 = 0, 1, 8, 12, 26, 30
"""ggml type numbers that tests write by hand (ggml.h)."""


class ValueType(IntEnum):
    """``enum gguf_type``."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


_FORMATS = {
    ValueType.U8: "<B",
    ValueType.I8: "<b",
    ValueType.U16: "<H",
    ValueType.I16: "<h",
    ValueType.U32: "<I",
    ValueType.I32: "<i",
    ValueType.F32: "<f",
    ValueType.BOOL: "<?",
    ValueType.U64: "<Q",
    ValueType.I64: "<q",
    ValueType.F64: "<d",
}

Scalar = bool | int | float | str | bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: row-major shape, ggml type number, stored bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    """Length and bytes."""
    encoded = text.encode() if isinstance(text, str) else text
    return u64(len(encoded)) + encoded


def scalar(type: ValueType, value: Scalar) -> bytes:
    """A single value, without its type tag."""
    if isinstance(value, str | bytes):
        assert type is ValueType.STRING
        return string(value)
    return struct.pack(_FORMATS[type], value)


def pair(key: str | bytes, type: ValueType, value: Scalar | Sequence[Scalar]) -> bytes:
    """A key-value pair; a list or tuple becomes an array with elements of that type."""
    if isinstance(value, list | tuple):
        elements = b"".join(scalar(type, element) for element in value)
        return raw_array(key, type, len(value), elements)
    assert not isinstance(value, Sequence) or isinstance(value, str | bytes)
    return raw_pair(key, type, scalar(type, value))


def raw_pair(key: str | bytes, type: int, payload: bytes) -> bytes:
    """A pair with any type tag and any payload."""
    return string(key) + u32(type) + payload


def raw_array(key: str | bytes, type: int, length: int, payload: bytes) -> bytes:
    """An array with any element type, announced length and payload."""
    return raw_pair(key, ValueType.ARRAY, u32(type) + u64(length) + payload)


def tensor_row(
    name: str | bytes, ne: Sequence[int], type: int, offset: int, *, n_dims: int | None = None
) -> bytes:
    """A row of the tensor table; ne is ggml's order (row length first), modulo 2^64."""
    dims = b"".join(u64(d % 2**64) for d in ne)
    return (
        string(name) + u32(len(ne) if n_dims is None else n_dims) + dims + u32(type) + u64(offset)
    )


def file_bytes(
    pairs: Sequence[bytes] = (),
    rows: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = MAGIC,
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    alignment: int = DEFAULT_ALIGNMENT,
) -> bytes:
    """A file from its pieces; the counts may be made to lie. Pads before the data, not after."""
    head = magic + u32(version)
    head += u64(len(rows) if n_tensors is None else n_tensors)
    head += u64(len(pairs) if n_pairs is None else n_pairs)
    head += b"".join(pairs) + b"".join(rows)
    return head + bytes(-len(head) % alignment) + data


def model_bytes(
    pairs: Sequence[bytes],
    tensors: Sequence[Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    version: int = 3,
    with_data: bool = True,
) -> bytes:
    """A valid file: tensors one after the other, each padded to the alignment."""
    rows = []
    data = b""
    for tensor in tensors:
        rows.append(tensor_row(tensor.name, tensor.shape[::-1], tensor.type, len(data)))
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    content = data if with_data else b""
    return file_bytes(pairs, rows, content, alignment=alignment, version=version)


def write_gguf(
    path: Path,
    tensors: Sequence[Tensor] = (),
    pairs: Sequence[bytes] = (),
    *,
    alignment: int = DEFAULT_ALIGNMENT,
) -> Path:
    """Write a valid file; general.alignment is added where it is not the default."""
    if alignment != DEFAULT_ALIGNMENT:
        pairs = [*pairs, pair("general.alignment", ValueType.U32, alignment)]
    path.write_bytes(model_bytes(pairs, tensors, alignment=alignment))
    return path


def shard_path(folder: Path, index: int, n_shards: int, prefix: str = "model") -> Path:
    """The name llama.cpp gives to shard ``index`` (from 0)."""
    return folder / f"{prefix}-{index + 1:05d}-of-{n_shards:05d}.gguf"


def split_pairs(index: int, n_shards: int, n_tensors: int) -> list[bytes]:
    """The keys that gguf-split writes."""
    return [
        pair("split.no", ValueType.U16, index),
        pair("split.count", ValueType.U16, n_shards),
        pair("split.tensors.count", ValueType.I32, n_tensors),
    ]


def write_shards(
    folder: Path, shards: Sequence[Sequence[Tensor]], pairs: Sequence[bytes] = ()
) -> list[Path]:
    """Write a split model; the first shard carries the pairs."""
    n_tensors = sum(len(shard) for shard in shards)
    paths = []
    for index, tensors in enumerate(shards):
        own = [*(pairs if index == 0 else ()), *split_pairs(index, len(shards), n_tensors)]
        paths.append(write_gguf(shard_path(folder, index, len(shards)), tensors, own))
    return paths


def f32_tensor(name: str, weights: npt.ArrayLike) -> Tensor:
    values = np.ascontiguousarray(weights, dtype="<f4")
    return Tensor(name, values.shape, F32, values.tobytes())


def f16_tensor(name: str, weights: npt.ArrayLike) -> Tensor:
    values = np.ascontiguousarray(weights, dtype="<f2")
    return Tensor(name, values.shape, F16, values.tobytes())


def bf16_tensor(name: str, weights: npt.ArrayLike) -> Tensor:
    """Rounded to nearest, ties to even."""
    values = np.ascontiguousarray(weights, dtype="<f4")
    bits = values.view("<u4").astype(np.uint64)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return Tensor(name, values.shape, BF16, halves.tobytes())


def quantized_tensor(name: str, type: int, shape: tuple[int, ...], stored: bytes) -> Tensor:
    return Tensor(name, shape, type, stored)
