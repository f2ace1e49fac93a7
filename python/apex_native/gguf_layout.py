"""Byte arithmetic of GGUF v3 files: what a header, a tensor table and a set of shards occupy.

Nothing here opens a file. Sizes follow ``gguf_write_out`` of the pinned llama.cpp (``gguf.cpp``):
magic, version, two counts, the key-value pairs, the tensor table, padding, and then each tensor
padded to the alignment, the last one included.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from apex_native.errors import PlanError
from apex_native.types import MetadataValue

__all__ = [
    "ALIGNMENT",
    "STRUCT_CODES",
    "FileLayout",
    "GgufValueType",
    "MetadataEntry",
    "SizedTensor",
    "layout_file",
    "layout_shards",
    "model_stem",
    "ne_order",
    "padded",
    "shard_file_name",
    "shard_metadata",
    "split_tensors",
    "tensor_entry_bytes",
]

ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT; llama.cpp writes its copies with it whatever the source used."""

FIXED_HEADER_BYTES = 4 + 4 + 8 + 8
"""Magic, version (u32), number of tensors and of key-value pairs (i64 each)."""

MAX_SHARDS = 0xFFFF
"""``split.count`` is a u16."""

_SHARD_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")


class GgufValueType(IntEnum):
    """``enum gguf_type``: the type tags of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


STRUCT_CODES = {
    GgufValueType.UINT8: "B",
    GgufValueType.INT8: "b",
    GgufValueType.UINT16: "H",
    GgufValueType.INT16: "h",
    GgufValueType.UINT32: "I",
    GgufValueType.INT32: "i",
    GgufValueType.FLOAT32: "f",
    GgufValueType.BOOL: "?",
    GgufValueType.UINT64: "Q",
    GgufValueType.INT64: "q",
    GgufValueType.FLOAT64: "d",
}
"""``struct`` code of each fixed-size value type; the encoder writes what the layout measures."""

_FLOAT_TYPES = (GgufValueType.FLOAT32, GgufValueType.FLOAT64)


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """One key-value pair to be written, with its GGUF type spelled out.

    A tuple value is written as an array whose elements are of ``type``. Raises PlanError when
    the value cannot be stored as that type.
    """

    key: str
    type: GgufValueType
    value: MetadataValue

    def __post_init__(self) -> None:
        if self.type is GgufValueType.ARRAY:
            raise PlanError(f"{self.key}: give the type of the elements, a tuple makes the array")
        elements = self.value if isinstance(self.value, tuple) else (self.value,)
        for element in elements:
            _check_storable(self.key, self.type, element)

    @classmethod
    def infer(cls, key: str, value: MetadataValue) -> MetadataEntry:
        """The entry for a value without a stated type.

        bool → BOOL, str → STRING, float → FLOAT32, int → UINT32: what llama-quantize's
        ``--override-kv`` writes. An integer that does not fit becomes INT32, UINT64 or INT64,
        the first that holds every element. An empty tuple has no type: PlanError.
        """
        elements = value if isinstance(value, tuple) else (value,)
        if not elements:
            raise PlanError(f"{key}: an empty array has no element type; state it explicitly")
        kinds = {type(element) for element in elements}
        if len(kinds) > 1:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise PlanError(f"{key}: array elements must be of one type, found {names}")
        kind = kinds.pop()
        if kind is int:
            return cls(key, _integer_type(key, elements), value)
        fixed = {bool: GgufValueType.BOOL, str: GgufValueType.STRING, float: GgufValueType.FLOAT32}
        if kind not in fixed:
            raise PlanError(f"{key}: GGUF cannot store a {kind.__name__}")
        return cls(key, fixed[kind], value)

    @property
    def nbytes(self) -> int:
        """Encoded bytes: key, type tag, array header if any, and value."""
        size = _string_bytes(self.key) + 4
        if isinstance(self.value, tuple):
            return size + 4 + 8 + sum(_value_bytes(self.type, element) for element in self.value)
        return size + _value_bytes(self.type, self.value)


def _check_storable(key: str, type: GgufValueType, value: object) -> None:
    if type is GgufValueType.STRING:
        fits = isinstance(value, str)
    elif type is GgufValueType.BOOL:
        fits = isinstance(value, bool)
    elif type in _FLOAT_TYPES:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and _packs(type, value)
    else:
        fits = isinstance(value, int) and not isinstance(value, bool) and _packs(type, value)
    if not fits:
        raise PlanError(f"{key}: {value!r} cannot be stored as GGUF {type.name}")


def _packs(type: GgufValueType, value: object) -> bool:
    try:
        struct.pack("<" + STRUCT_CODES[type], value)
    except (struct.error, OverflowError):
        return False
    return True


def _integer_type(key: str, values: Iterable[object]) -> GgufValueType:
    candidates = (
        GgufValueType.UINT32,
        GgufValueType.INT32,
        GgufValueType.UINT64,
        GgufValueType.INT64,
    )
    integers = tuple(values)
    for candidate in candidates:
        if all(_packs(candidate, value) for value in integers):
            return candidate
    raise PlanError(f"{key}: no GGUF integer type holds {integers}")


def _string_bytes(text: str) -> int:
    """Length u64 and bytes; surrogates stand for bytes of the source that are not UTF-8."""
    return 8 + len(text.encode("utf-8", "surrogateescape"))


def _value_bytes(type: GgufValueType, value: object) -> int:
    if type is GgufValueType.STRING:
        return _string_bytes(str(value))
    return struct.calcsize("<" + STRUCT_CODES[type])


class SizedTensor(Protocol):
    """Anything with a name, a row-major shape and a size: TensorInfo, PlannedTensor."""

    @property
    def name(self) -> str:
        """GGUF tensor name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major shape."""

    @property
    def nbytes(self) -> int:
        """Stored bytes, without padding."""


def padded(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """Bytes rounded up to a multiple of alignment (GGML_PAD)."""
    return -(-nbytes // alignment) * alignment


def ne_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The ``ne`` a file stores for a row-major shape: reversed, trailing 1s dropped."""
    ne = list(reversed(shape))
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    return tuple(ne)


def tensor_entry_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a row of the tensor table: name, n_dims u32, ne i64 each, type i32, offset u64."""
    return _string_bytes(name) + 4 + 8 * len(ne_order(shape)) + 4 + 8


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where the bytes of one GGUF file lie.

    header_bytes includes the padding before the data section; offsets are relative to its
    start, one for each tensor in the order given; data_bytes includes all padding.
    """

    header_bytes: int
    offsets: tuple[int, ...]
    data_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return self.header_bytes + self.data_bytes


def layout_file(tensors: Sequence[SizedTensor], kv_bytes: int) -> FileLayout:
    """Lay out one file; kv_bytes is the encoded size of all its key-value pairs."""
    table = sum(tensor_entry_bytes(tensor.name, tensor.shape) for tensor in tensors)
    offsets = []
    position = 0
    for tensor in tensors:
        offsets.append(position)
        position += padded(tensor.nbytes)
    return FileLayout(padded(FIXED_HEADER_BYTES + kv_bytes + table), tuple(offsets), position)


def split_tensors(
    tensors: Sequence[SizedTensor],
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
) -> tuple[range, ...]:
    """Cut a file into shards, greedily in file order, as llama.cpp's gguf-split does.

    max_bytes counts padded tensor data, not headers; a tensor larger than it gets a shard of
    its own (gguf-split stops if that is the first one). Returns the tensor indices of each
    shard. Raises PlanError unless exactly one positive limit is given.
    """
    limits = [limit for limit in (max_bytes, max_tensors) if limit is not None]
    if len(limits) != 1 or limits[0] <= 0:
        raise PlanError(
            f"a split needs one positive limit, found max_bytes={max_bytes}, "
            f"max_tensors={max_tensors}"
        )
    size_limit = math.inf if max_bytes is None else max_bytes
    count_limit = math.inf if max_tensors is None else max_tensors
    starts = [0]
    size = 0
    for index, tensor in enumerate(tensors):
        nbytes = padded(tensor.nbytes)
        full = size + nbytes > size_limit or index - starts[-1] >= count_limit
        if full and index > starts[-1]:
            starts.append(index)
            size = 0
        size += nbytes
    if len(starts) > MAX_SHARDS:
        raise PlanError(
            f"the limit makes {len(starts)} shards, split.count holds {MAX_SHARDS}; raise the limit"
        )
    ends = [*starts[1:], len(tensors)]
    return tuple(range(start, end) for start, end in zip(starts, ends, strict=True))


def shard_file_name(prefix: str, index: int, n_shards: int) -> str:
    """Name of shard ``index`` (from 0): llama_split_path's ``%s-%05d-of-%05d.gguf``."""
    return f"{prefix}-{index + 1:05d}-of-{n_shards:05d}.gguf"


def model_stem(file_name: str) -> str:
    """A file's name without .gguf and, of a shard, its number: what all shards of a model share."""
    return _SHARD_NUMBER.sub("", file_name.removesuffix(".gguf"))


def shard_metadata(index: int, n_shards: int, n_tensors: int) -> tuple[MetadataEntry, ...]:
    """The keys that mark shard ``index`` (from 0); n_tensors counts all shards."""
    return (
        MetadataEntry("split.no", GgufValueType.UINT16, index),
        MetadataEntry("split.count", GgufValueType.UINT16, n_shards),
        MetadataEntry("split.tensors.count", GgufValueType.INT32, n_tensors),
    )


def layout_shards(
    tensors: Sequence[SizedTensor], shards: Sequence[range], kv_bytes: int
) -> tuple[FileLayout, ...]:
    """Lay out each shard; the first carries the model's kv_bytes, every one its split keys."""
    layouts = []
    for index, shard in enumerate(shards):
        entries = shard_metadata(index, len(shards), len(tensors))
        own_kv = sum(entry.nbytes for entry in entries) + (kv_bytes if index == 0 else 0)
        layouts.append(layout_file([tensors[i] for i in shard], own_kv))
    return tuple(layouts)
