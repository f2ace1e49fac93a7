"""llama.cpp's GGUF importance matrix: reading with every check, writing byte for byte the same.

Layout (tools/imatrix/imatrix.cpp, save_imatrix): three keys, and for each weight, in the order of
their names, ``<name>.in_sum2`` F32 [n_per_row, n_slices] and ``<name>.counts`` F32 [1, n_slices].
What this package adds is ignored by llama.cpp: the key ``apex.imatrix.settings`` (JSON) and, from a
pass with all experts, the pairs ``<name>.all_sum2``, ``<name>.all_counts``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError
from apex_native.gguf import GgufFile
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.imatrix.entries import Floats, Imatrix, ImatrixEntry
from apex_native.imatrix.float_tensors import FloatTensor, encode_floats
from apex_native.types import GgmlType

__all__ = ["encode_gguf", "read_gguf"]

SUMS_SUFFIX = ".in_sum2"
COUNTS_SUFFIX = ".counts"
ALL_SUMS_SUFFIX = ".all_sum2"
ALL_COUNTS_SUFFIX = ".all_counts"
SETTINGS_KEY = "apex.imatrix.settings"
REQUIRED_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
"""llama-quantize refuses a GGUF imatrix without these (tools/quantize/quantize.cpp)."""

MAX_NAME_BYTES = 63
"""GGML_MAX_NAME - 1: a longer tensor name cannot be read by llama.cpp."""


@dataclass(frozen=True, slots=True)
class GgufContent:
    """What a file holds besides its path and hash."""

    entries: dict[str, ImatrixEntry]
    chunk_count: int
    chunk_size: int
    datasets: tuple[str, ...]
    settings: Mapping[str, object]


def read_gguf(file: GgufFile) -> GgufContent:
    """Read an open file; ImatrixError where it is not an importance matrix, naming the tensor."""
    path, metadata = file.path, file.metadata
    missing = [key for key in REQUIRED_KEYS if key not in file.facts.kv_sizes]
    if missing:
        raise ImatrixError(
            f"{path}: not an importance matrix, expected the key {missing[0]}; "
            "give the file llama-imatrix wrote, not a model"
        )
    numbers = {}
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        number = metadata.get(key)
        if not isinstance(number, int) or isinstance(number, bool):
            raise ImatrixError(f"{path}: {key} must be an integer, found {number!r}")
        numbers[key] = number
    datasets = metadata.get("imatrix.datasets", ())
    names = tuple(str(name) for name in datasets) if isinstance(datasets, tuple) else ()
    entries = {}
    known = (SUMS_SUFFIX, COUNTS_SUFFIX, ALL_SUMS_SUFFIX, ALL_COUNTS_SUFFIX)
    for tensor in file.tensors:
        if tensor.name.endswith(SUMS_SUFFIX):
            name = tensor.name.removesuffix(SUMS_SUFFIX)
            entries[name] = _entry(file, name)
        elif not tensor.name.endswith(known):
            raise ImatrixError(f"{path}: unexpected tensor '{tensor.name}' in an importance matrix")
    return GgufContent(
        entries=entries,
        chunk_count=numbers["imatrix.chunk_count"],
        chunk_size=numbers["imatrix.chunk_size"],
        datasets=names,
        settings=_settings(file),
    )


def _settings(file: GgufFile) -> Mapping[str, object]:
    text = file.metadata.get(SETTINGS_KEY)
    if text is None:
        return {}
    try:
        settings = json.loads(str(text))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ImatrixError(f"{file.path}: {SETTINGS_KEY} is no JSON object; collect it again")
    return settings


def _entry(file: GgufFile, name: str) -> ImatrixEntry:
    sums, counts = _pair(file, name, SUMS_SUFFIX, COUNTS_SUFFIX)
    all_experts = None
    if any(tensor.name == name + ALL_SUMS_SUFFIX for tensor in file.tensors):
        all_experts = _pair(file, name, ALL_SUMS_SUFFIX, ALL_COUNTS_SUFFIX)
        if all_experts[0].shape != sums.shape:
            raise ImatrixError(
                f"{file.path}: '{name}' has {sums.shape} sums and {all_experts[0].shape} with all "
                "experts, expected as many; collect it again"
            )
    return ImatrixEntry.from_sums(sums, counts, all_experts)


def _pair(
    file: GgufFile, name: str, sums_suffix: str, counts_suffix: str
) -> tuple[Floats, npt.NDArray[np.float64]]:
    try:
        sums_info = file.tensors[file.index(name + sums_suffix)]
        counts_info = file.tensors[file.index(name + counts_suffix)]
    except KeyError:
        raise ImatrixError(
            f"{file.path}: '{name}' has sums but no counts; collect it again"
        ) from None
    if sums_info.type is not GgmlType.F32 or counts_info.type is not GgmlType.F32:
        raise ImatrixError(f"{file.path}: sums and counts of '{name}' must be F32")
    n_slices = counts_info.n_elements
    if sums_info.n_elements % n_slices:
        raise ImatrixError(
            f"{file.path}: '{name}' has {sums_info.n_elements} sums for {n_slices} counts, "
            "expected a multiple"
        )
    sums = file.to_float32(sums_info.name).reshape(n_slices, -1)
    raw_counts = file.to_float32(counts_info.name).reshape(n_slices)
    if not np.isfinite(raw_counts).all():
        raise ImatrixError(f"{file.path}: '{name}' has counts that are not finite")
    # llama-quantize rounds the count to an integer and divides in float (quantize.cpp).
    return sums, np.rint(raw_counts.astype(np.float64))


def _tensors(imatrix: Imatrix) -> Iterator[FloatTensor]:
    for name in sorted(imatrix.entries, key=str.encode):
        entry = imatrix.entries[name]
        yield FloatTensor(name + SUMS_SUFFIX, entry.sums)
        yield FloatTensor(name + COUNTS_SUFFIX, entry.counts.astype(np.float32)[:, None])
        if entry.all_experts is not None:
            sums, counts = entry.all_experts
            yield FloatTensor(name + ALL_SUMS_SUFFIX, sums)
            yield FloatTensor(name + ALL_COUNTS_SUFFIX, counts.astype(np.float32)[:, None])


def encode_gguf(imatrix: Imatrix) -> Iterator[bytes | memoryview]:
    """The file's bytes, piece by piece; ImatrixError for a name llama.cpp could not read."""
    string, u32 = GgufValueType.STRING, GgufValueType.UINT32
    pairs = [
        MetadataEntry("general.type", string, "imatrix"),
        MetadataEntry("imatrix.datasets", string, imatrix.datasets),
        MetadataEntry("imatrix.chunk_count", u32, imatrix.chunk_count),
        MetadataEntry("imatrix.chunk_size", u32, imatrix.chunk_size),
    ]
    if imatrix.settings:
        text = json.dumps(dict(imatrix.settings), sort_keys=True)
        pairs.append(MetadataEntry(SETTINGS_KEY, string, text))
    tensors = list(_tensors(imatrix))
    for tensor in tensors:
        if len(tensor.name.encode()) > MAX_NAME_BYTES:
            raise ImatrixError(
                f"'{tensor.name}' is longer than the {MAX_NAME_BYTES} bytes llama.cpp reads; "
                "write the legacy format"
            )
    yield from encode_floats(pairs, tensors)
