"""GGUF of nothing but float arrays: what importance matrices and second moments are kept in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.gguf_encode import encode_entry, encode_header
from apex_native.gguf_layout import MetadataEntry, layout_file, padded
from apex_native.imatrix.entries import Floats
from apex_native.types import GgmlType

__all__ = ["FloatTensor", "encode_floats"]


@dataclass(frozen=True, slots=True)
class FloatTensor:
    """An array under its name in the file; numpy's shape, the reverse of ggml's."""

    name: str
    data: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.data.shape

    @property
    def nbytes(self) -> int:
        """Of the array; what pads it in the file is not counted."""
        return self.data.nbytes


def encode_floats(
    pairs: Sequence[MetadataEntry], tensors: Sequence[FloatTensor]
) -> Iterator[bytes | memoryview]:
    """The file's bytes, piece by piece; an array's own are not copied."""
    layout = layout_file(tensors, sum(pair.nbytes for pair in pairs))
    types = [GgmlType.F32] * len(tensors)
    yield encode_header([encode_entry(pair) for pair in pairs], tensors, types, layout)
    for tensor in tensors:
        yield np.ascontiguousarray(tensor.data, "<f4").data
        yield bytes(padded(tensor.nbytes) - tensor.nbytes)
