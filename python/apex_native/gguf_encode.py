"""GGUF v3 headers as bytes: the counterpart of the sizes in gguf_layout."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from apex_native.gguf_layout import (
    STRUCT_CODES,
    FileLayout,
    GgufValueType,
    MetadataEntry,
    SizedTensor,
    ne_order,
)
from apex_native.types import GgmlType

__all__ = ["encode_entry", "encode_header"]

MAGIC = b"GGUF"
VERSION = 3


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _value(type: GgufValueType, value: object) -> bytes:
    if type is GgufValueType.STRING:
        return _string(str(value))
    return struct.pack("<" + STRUCT_CODES[type], value)


def encode_entry(entry: MetadataEntry) -> bytes:
    """A key-value pair: key, type tag, (element type and count of an array,) value."""
    if isinstance(entry.value, tuple):
        tags = struct.pack("<IIQ", GgufValueType.ARRAY, entry.type, len(entry.value))
        return _string(entry.key) + tags + b"".join(_value(entry.type, v) for v in entry.value)
    return _string(entry.key) + struct.pack("<I", entry.type) + _value(entry.type, entry.value)


def encode_header(
    pairs: Sequence[bytes],
    tensors: Sequence[SizedTensor],
    types: Sequence[GgmlType],
    layout: FileLayout,
) -> bytes:
    """Everything before the data section, padding included.

    pairs are encoded key-values (as stored in the source, or by encode_entry); types are the
    types the tensors will have; layout comes from layout_file. Raises ValueError if the result
    is not as long as the layout says: an inconsistent file is never written.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(pairs)), *pairs]
    for tensor, type, offset in zip(tensors, types, layout.offsets, strict=True):
        ne = ne_order(tensor.shape)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, type.id, offset))
    header = b"".join(parts)
    padding = layout.header_bytes - len(header)
    if not 0 <= padding < 32:
        raise ValueError(
            f"header of {len(header)} bytes, the layout foresees {layout.header_bytes}; "
            "the sizes of the key-value pairs do not match"
        )
    return header + bytes(padding)
