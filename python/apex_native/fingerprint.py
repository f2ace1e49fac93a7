"""Which model is this? A hash of a model file that takes a fraction of a second, whatever its size.

Input: an opened GGUF file. Output: a fingerprint for results files. It depends on what the model
is, not on where or when it was stored: a copy, and the same tensors split into shards, have the
same one. (`GgufFile.fingerprint` is the opposite: it also asks whether the file was touched.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

from apex_native.errors import GgufError
from apex_native.types import GgufFacts, TensorInfo

__all__ = ["BLOCKS_PER_TENSOR", "BLOCK_BYTES", "StoredModel", "model_fingerprint", "sampled_blocks"]

BLOCK_BYTES = 4096
"""A page: what the disk is asked for anyway."""

BLOCKS_PER_TENSOR = 16
"""64 KiB of each tensor: 47 MB for the 733 tensors of a 35-billion MoE, however it is quantized."""

_VERSION = b"apex-native model fingerprint 1\n"


class StoredModel(Protocol):
    """What is asked of a model; `GgufFile` answers."""

    facts: GgufFacts

    def encoded_pair(self, key: str) -> bytes:
        """A key-value pair as stored."""
        ...

    def tensor_bytes(self, name: str) -> Any:
        """A tensor's stored bytes, as a buffer."""
        ...


def model_fingerprint(model: StoredModel) -> str:
    """sha256, in hex, over the metadata, the tensor table and 64 KiB sampled from each tensor.

    Covered: every key-value pair as stored (but ``split.*``), every tensor's name, shape, type and
    order, and the blocks `sampled_blocks` names. A change of single weights between the blocks
    is not seen; another importance matrix, type, recipe or training step changes them all.
    Raises GgufError for a header without data.
    """
    if not model.facts.has_data:
        raise GgufError("a header without data has no fingerprint; open the complete model")
    digest = hashlib.sha256(_VERSION)
    for key in model.facts.kv_sizes:
        if not key.startswith("split."):
            digest.update(model.encoded_pair(key))
    for tensor in model.facts.tensors:
        digest.update(_table_row(tensor))
        data = memoryview(model.tensor_bytes(tensor.name))
        for begin, end in sampled_blocks(len(data)):
            digest.update(data[begin:end])
    return digest.hexdigest()


def sampled_blocks(nbytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the blocks of a tensor that are hashed: all of it up to 64 KiB.

    Of a larger one, `BLOCKS_PER_TENSOR` blocks of `BLOCK_BYTES`, evenly spaced, the first and the
    last bytes among them.
    """
    if nbytes <= BLOCKS_PER_TENSOR * BLOCK_BYTES:
        yield 0, nbytes
        return
    for i in range(BLOCKS_PER_TENSOR):
        begin = i * (nbytes - BLOCK_BYTES) // (BLOCKS_PER_TENSOR - 1)
        yield begin, begin + BLOCK_BYTES


def _table_row(tensor: TensorInfo) -> bytes:
    return repr((tensor.name, tensor.shape, tensor.type.id, tensor.nbytes)).encode()
