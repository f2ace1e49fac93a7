"""Importance matrices in: llama.cpp's GGUF and legacy ``.dat``, normalised as llama-quantize does.

Input: a file written by llama-imatrix (or anything compatible). Output: an `Imatrix`, mean squared
activations per weight column and expert, float32, ready for the quantizers. Collecting one is a
later capability and will live here too.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.plan import ImatrixSummary
from apex_native.types import GgmlType

__all__ = ["Imatrix", "ImatrixEntry", "load_imatrix"]

SUMS_SUFFIX = ".in_sum2"
COUNTS_SUFFIX = ".counts"
REQUIRED_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
"""llama-quantize refuses a GGUF imatrix without these (tools/quantize/quantize.cpp)."""


@dataclass(frozen=True, slots=True, eq=False)
class ImatrixEntry:
    """One tensor's data: values float32 (n_slices, n_per_row), counts float64 (n_slices,).

    values are mean squared activations, 1.0 for an expert no token reached (as llama-quantize
    fills them); counts are tokens (chunks in legacy files, which do not store tokens).
    """

    values: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """An importance matrix: tensor name → entry, with where it came from."""

    entries: Mapping[str, ImatrixEntry]
    path: Path
    sha256: str
    chunk_count: int
    datasets: tuple[str, ...]
    is_legacy: bool

    def summary(self) -> ImatrixSummary:
        """What planning needs: names and sizes, no values."""
        return ImatrixSummary(
            entries={
                name: (entry.values.shape[1], entry.values.shape[0])
                for name, entry in self.entries.items()
            },
            sha256=self.sha256,
            file=self.path.name,
            chunk_count=self.chunk_count,
            datasets=self.datasets,
        )


def load_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read an importance matrix in either format.

    Raises ImatrixError where the file is damaged, lacks what llama-quantize demands, or holds
    values that are not finite or negative; the message names the tensor and the expert.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImatrixError(f"cannot read importance matrix {path}: {error.strerror}") from error
    if content[:4] == b"GGUF":
        with open_gguf(path) as file:
            entries, chunk_count, datasets = _read_gguf(file)
    else:
        entries, chunk_count, datasets = _LegacyReader(path, content).read()
    for name, entry in entries.items():
        _require_usable(path, name, entry)
    return Imatrix(
        entries=MappingProxyType(entries),
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        chunk_count=chunk_count,
        datasets=datasets,
        is_legacy=content[:4] != b"GGUF",
    )


def _read_gguf(file: GgufFile) -> tuple[dict[str, ImatrixEntry], int, tuple[str, ...]]:
    path, metadata = file.path, file.metadata
    missing = [key for key in REQUIRED_KEYS if key not in file.facts.kv_sizes]
    if missing:
        raise ImatrixError(
            f"{path}: not an importance matrix, expected the key {missing[0]}; "
            "give the file llama-imatrix wrote, not a model"
        )
    chunk_count = metadata.get("imatrix.chunk_count")
    if not isinstance(chunk_count, int) or isinstance(chunk_count, bool):
        raise ImatrixError(f"{path}: imatrix.chunk_count must be an integer, found {chunk_count!r}")
    datasets = metadata.get("imatrix.datasets", ())
    names = tuple(str(name) for name in datasets) if isinstance(datasets, tuple) else ()
    entries = {}
    for tensor in file.tensors:
        if tensor.name.endswith(SUMS_SUFFIX):
            name = tensor.name.removesuffix(SUMS_SUFFIX)
            entries[name] = _gguf_entry(file, name)
        elif not tensor.name.endswith(COUNTS_SUFFIX):
            raise ImatrixError(f"{path}: unexpected tensor '{tensor.name}' in an importance matrix")
    return entries, chunk_count, names


def _gguf_entry(file: GgufFile, name: str) -> ImatrixEntry:
    try:
        sums_info = file.tensors[file.index(name + SUMS_SUFFIX)]
        counts_info = file.tensors[file.index(name + COUNTS_SUFFIX)]
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
    counts = np.rint(raw_counts.astype(np.float64))
    seen = counts > 0
    values = np.ones_like(sums)
    np.divide(sums, counts.astype(np.float32)[:, None], out=values, where=seen[:, None])
    return ImatrixEntry(values, counts)


class _LegacyReader:
    """llama.cpp's first format: counts and (sum/count)*ncall per tensor, no experts."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._position = 0

    def read(self) -> tuple[dict[str, ImatrixEntry], int, tuple[str, ...]]:
        n_entries = self._int("the number of entries")
        if not 1 <= n_entries <= 1_000_000:
            raise ImatrixError(
                f"{self._path}: neither a GGUF nor a legacy importance matrix: "
                f"it would hold {n_entries} entries"
            )
        entries = dict(self._entry() for _ in range(n_entries))
        if self._position == len(self._content):
            return entries, 0, ()
        chunk_count = self._int("the chunk count")
        dataset = self._take(self._int("the dataset's length"), "the dataset's name")
        return entries, chunk_count, (dataset.decode("utf-8", "replace"),) if dataset else ()

    def _entry(self) -> tuple[str, ImatrixEntry]:
        name = self._take(self._int("a name's length"), "a tensor name").decode("utf-8", "replace")
        n_calls = self._int(f"the calls of '{name}'")
        n_values = self._int(f"the number of values of '{name}'")
        if n_values < 1:
            raise ImatrixError(f"{self._path}: '{name}' announces {n_values} values")
        raw = self._take(4 * n_values, f"the values of '{name}'")
        values = np.frombuffer(raw, dtype="<f4").astype(np.float32)
        if n_calls > 0:
            values = values / np.float32(n_calls)
        return name, ImatrixEntry(values.reshape(1, -1), np.array([n_calls], np.float64))

    def _int(self, what: str) -> int:
        number: int = struct.unpack("<i", self._take(4, what))[0]
        return number

    def _take(self, n_bytes: int, what: str) -> bytes:
        end = self._position + n_bytes
        if n_bytes < 0 or end > len(self._content):
            left = len(self._content) - self._position
            raise ImatrixError(
                f"{self._path}: neither a GGUF nor a whole legacy importance matrix: {what} at "
                f"byte {self._position} needs {n_bytes} bytes, {left} are left"
            )
        taken = self._content[self._position : end]
        self._position = end
        return taken


def _require_usable(path: Path, name: str, entry: ImatrixEntry) -> None:
    bad = ~(np.isfinite(entry.values) & (entry.values >= 0))
    if bad.any():
        slice_, column = (int(i) for i in np.argwhere(bad)[0])
        raise ImatrixError(
            f"{path}: '{name}', expert {slice_}, column {column} holds "
            f"{entry.values[slice_, column]}, expected a finite value >= 0; collect it again"
        )
