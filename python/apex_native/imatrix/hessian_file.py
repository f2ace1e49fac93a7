"""Second moments as a file: GGUF, written when it is whole, read without a copy.

Layout: ``general.type`` "hessian"; the keys ``apex.hessian.version``, ``.digest``, ``.tokens``,
``.settings`` (JSON), ``.weights`` and ``.inputs`` (arrays of one length: a weight, and the first
weight that reads the same input); and for each input
``<name>.moment`` and ``<name>.part`` F32 [n (n + 1) / 2, n_slices] and
``<name>.tokens`` F32 [n_slices, 3]: n_per_row, tokens, tokens of the part. Where slices are groups
of the weight's rows, ``<name>.groups`` F32 [n_rows]: the group of each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.closable import Closable
from apex_native.errors import ImatrixError, OutputError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.imatrix.files import atomic_file
from apex_native.imatrix.float_tensors import FloatTensor, encode_floats
from apex_native.imatrix.hessian import Hessian, InputMoment, packed_size
from apex_native.machine import free_memory
from apex_native.types import GgmlType

__all__ = ["HessianFile", "require_room", "save_hessian"]

VERSION = 2
MAX_EXACT_COUNT = 2**24
"""Tokens that a float holds exactly."""


_MEMORY_PER_ELEMENT = 2 * (8 + 8 + 4)
"""Bytes, of the whole and of the part: sums, a checkpoint's copy of them, and their floats."""


def require_room(inputs: Sequence[tuple[list[str], int, int]], path: Path) -> None:
    """Raise OutputError where memory or disk do not hold the moments of these inputs.

    inputs: the weights that read each, n_per_row, slices.
    """
    n_elements = sum(n_slices * packed_size(n) for _, n, n_slices in inputs)
    advice = (
        "; fewer fit layer by layer: `apex-native quantize --calibration ... --hessian` keeps none"
    )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; create it first")
    needed, free = 2 * 4 * n_elements, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free:,} bytes free, the second moments need {needed:,}{advice}"
        )
    memory, needed = free_memory(), _MEMORY_PER_ELEMENT * n_elements
    if memory is not None and needed > memory:
        raise OutputError(
            f"{memory:,} bytes of memory are free, collecting the second moments needs "
            f"{needed:,}{advice}"
        )


def save_hessian(hessian: Hessian, path: str | os.PathLike[str]) -> None:
    """Write a file `HessianFile` reads; it appears when it is whole. Raises OutputError."""
    path = Path(path)
    tensors = list(_tensors(hessian))
    string = GgufValueType.STRING
    weights = tuple(sorted(hessian.input_of))
    pairs = [
        MetadataEntry("general.type", string, "hessian"),
        MetadataEntry("apex.hessian.version", GgufValueType.UINT32, VERSION),
        MetadataEntry("apex.hessian.digest", string, hessian.digest),
        MetadataEntry("apex.hessian.tokens", GgufValueType.UINT64, hessian.n_tokens),
        MetadataEntry(
            "apex.hessian.settings", string, json.dumps(dict(hessian.settings), sort_keys=True)
        ),
        MetadataEntry("apex.hessian.weights", string, weights),
        MetadataEntry(
            "apex.hessian.inputs", string, tuple(hessian.input_of[weight] for weight in weights)
        ),
    ]
    with atomic_file(path) as file:
        for piece in encode_floats(pairs, tensors):
            file.write(piece)


def _tensors(hessian: Hessian) -> Iterator[FloatTensor]:
    for name in sorted(hessian.inputs):
        moment = hessian.inputs[name]
        if int(moment.counts.max()) > MAX_EXACT_COUNT:
            raise ImatrixError(f"'{name}': more than 2^24 tokens; calibrate on fewer chunks")
        tokens = np.stack(
            [np.full(len(moment.counts), moment.n_per_row), moment.counts, moment.part_counts]
        )
        yield FloatTensor(name + ".moment", moment.total)
        yield FloatTensor(name + ".part", moment.part)
        yield FloatTensor(name + ".tokens", tokens.astype(np.float32))
        if moment.groups is not None:
            yield FloatTensor(name + ".groups", moment.groups.astype(np.float32))


class HessianFile(Closable):
    """An open file of second moments: ``hessian`` holds views of it; for a ``with`` statement."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open and check. Raises ImatrixError where it is no such file, GgufError if damaged."""
        path = Path(path)
        try:
            path.stat()
        except OSError as error:
            raise ImatrixError(f"cannot read second moments {path}: {error.strerror}") from error
        self._file = open_gguf(path)
        try:
            self.hessian = _read(self._file, path)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; its views must not be used any more."""
        self._file.close()


def _read(file: GgufFile, path: Path) -> Hessian:
    metadata: Any = file.metadata
    if metadata.get("general.type") != "hessian":
        raise ImatrixError(
            f"{path}: not a file of second moments; give one `apex-native imatrix --hessian` wrote"
        )
    if metadata.get("apex.hessian.version") not in (1, VERSION):
        raise ImatrixError(
            f"{path}: version {metadata.get('apex.hessian.version')}, expected {VERSION}; "
            "collect it again"
        )
    try:
        settings = json.loads(str(metadata["apex.hessian.settings"]))
        weights = [str(name) for name in metadata["apex.hessian.weights"]]
        owners = [str(name) for name in metadata["apex.hessian.inputs"]]
        digest, n_tokens = (
            str(metadata["apex.hessian.digest"]),
            int(metadata["apex.hessian.tokens"]),
        )
        inputs = {name: _moment(file, name) for name in set(owners)}
        input_of = dict(zip(weights, owners, strict=True))
    except (KeyError, ValueError, TypeError) as error:
        raise ImatrixError(f"{path}: damaged ({error}); collect it again") from None
    return Hessian(inputs, input_of, digest, n_tokens, settings, path)


def _moment(file: GgufFile, name: str) -> InputMoment:
    tokens = file.to_float32(name + ".tokens")
    if tokens.ndim != 2 or len(tokens) != 3 or not np.isfinite(tokens).all():
        raise ValueError(f"{name}.tokens")
    n_per_row, counts, part_counts = (row.astype(np.int64) for row in tokens)
    n = int(n_per_row[0])
    shape = (len(counts), packed_size(n))
    arrays = []
    for suffix in (".moment", ".part"):
        stored = file.tensor_bytes(name + suffix)
        info = file.tensors[file.index(name + suffix)]
        if info.type is not GgmlType.F32 or stored.nbytes != 4 * shape[0] * shape[1]:
            raise ValueError(name + suffix)
        arrays.append(stored.view(np.float32).reshape(shape))
    if n < 1 or (counts < part_counts).any() or (part_counts < 0).any():
        raise ValueError(f"{name}.tokens")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"{name}: values that are not finite")
    groups = _groups(file, name + ".groups", len(counts))
    return InputMoment(n, arrays[0], arrays[1], counts, part_counts, groups=groups)


def _groups(file: GgufFile, name: str, n_groups: int) -> npt.NDArray[np.int32] | None:
    if all(info.name != name for info in file.tensors):
        return None
    values = file.to_float32(name).reshape(-1)
    if not np.isfinite(values).all():
        raise ValueError(name)
    groups = values.astype(np.int32)
    if not np.array_equal(np.unique(groups), np.arange(n_groups)) or (groups != values).any():
        raise ValueError(name)
    return groups
