"""GGUF files in: metadata, tensor table and bounds-checked tensor data, all shards as one model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from apex_native._native import core
from apex_native.closable import Closable
from apex_native.errors import GgufError
from apex_native.hub import local_gguf
from apex_native.machine import default_threads
from apex_native.types import GgmlType, GgufFacts, TensorInfo
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["GgufFile", "WeightStatistics", "open_gguf", "statistics_of"]


class WeightStatistics(NamedTuple):
    """What one tensor's weights look like; sums in double, the same for any thread count.

    kurtosis is the fourth central moment over the squared variance (a Gaussian has 3);
    outlier_share counts weights beyond 4 times the rms of their row (a Gaussian has 6.3e-5).
    """

    n: int
    mean: float
    rms: float
    max_abs: float
    kurtosis: float
    outlier_share: float


class GgufFile(Closable):
    """A GGUF model opened for reading; use as a context manager or call close().

    Views of tensor data keep the mapping alive after close(). Do not change the file while it
    is open: a view of a truncated file cannot be read (quantize() copes, it reads by position).
    """

    def __init__(self, path: str | os.PathLike[str], *, with_siblings: bool = True) -> None:
        """Open path and its sibling shards (or it alone); GgufError if anything is damaged."""
        self.path = Path(path)
        self._core: Any = core.GgufFile(os.fsencode(path), with_siblings=with_siblings)
        key_values = self._core.key_values
        tensors = tuple(
            TensorInfo(name, shape, GgmlType.from_id(type_id), nbytes, shard, offset)
            for name, shape, type_id, nbytes, shard, offset in self._core.tensors
        )
        self.facts = GgufFacts(
            metadata=MappingProxyType({k: v for k, (v, _) in key_values.items() if v is not None}),
            tensors=tensors,
            kv_sizes=MappingProxyType({key: size for key, (_, size) in key_values.items()}),
            alignment=self._core.alignment,
            has_data=self._core.has_data,
        )
        self._index = {tensor.name: i for i, tensor in enumerate(tensors)}

    def __repr__(self) -> str:
        return f"GgufFile({str(self.path)!r}, {len(self.tensors)} tensors)"

    def close(self) -> None:
        """Let go of the file; further reads raise GgufError."""
        self._core = None

    @property
    def native(self) -> Any:
        """The native object; GgufError after close()."""
        if self._core is None:
            raise GgufError(f"{self.path}: the file was closed; open it again")
        return self._core

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key-values: scalars and arrays of up to 4096 elements."""
        return self.facts.metadata

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensor table in file order, shapes row-major."""
        return self.facts.tensors

    @property
    def missing_data(self) -> str | None:
        """Which file holds no data or only some, as a sentence; None where all are whole."""
        return self.native.missing_data or None

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The files this model is made of."""
        return tuple(Path(path) for path in self.native.shard_paths)

    def index(self, name: str) -> int:
        """Position of a tensor in `tensors`; KeyError if there is none of that name."""
        return self._index[name]

    def encoded_pair(self, key: str) -> bytes:
        """A key-value pair as stored, for copying it unchanged; KeyError if absent."""
        encoded: bytes = self.native.encoded_pair(key)
        return encoded

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """Read-only view of a tensor's stored bytes, shape (nbytes,); no copy."""
        view: npt.NDArray[np.uint8] = self.native.tensor_bytes(self._index[name])
        return view

    def stored_tensor(self, name: str) -> Any:
        """The tensor for native readers by position; KeyError if there is none of that name.

        Raises GgufError where its bytes are not in the file.
        """
        return self.native.stored_tensor(self._index[name])

    def to_float32(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor's weights as float32 in its row-major shape (dequantized if need be)."""
        info = self.tensors[self._index[name]]
        flat = core.dequantize_rows(self.tensor_bytes(name), info.type.id, info.n_per_row)
        weights: npt.NDArray[np.float32] = flat.reshape(info.shape)
        return weights

    def statistics(
        self, names: Sequence[str], *, n_threads: int | None = None
    ) -> list[WeightStatistics]:
        """Weight statistics of each named tensor, streamed from disk on all cores."""
        return statistics_of(self, names, n_threads=n_threads)

    def checksums(self, *, n_threads: int | None = None) -> dict[str, str]:
        """Checksum of each tensor's stored bytes by its name, 16 hexadecimal digits; all are read.

        The sum, modulo 2^64, of every row's XXH64 with the row's number in the tensor as the seed:
        what manifests of `quantize` hold. Tensors without weights (a dimension of 0) are left out.
        """
        names = [tensor.name for tensor in self.tensors if tensor.nbytes]
        sums = core.tensor_checksums(
            [self.stored_tensor(name) for name in names], n_threads=n_threads or default_threads()
        )
        return {name: f"{value:016x}" for name, value in zip(names, sums, strict=True)}

    def fingerprint(self) -> str:
        """sha256 over the header and each shard's size and modification time.

        Not over the data: 65 GB would take minutes. It tells a resumed job that the source is
        still the file it began with.
        """
        digest = hashlib.sha256()
        for key in self.facts.kv_sizes:
            digest.update(self.encoded_pair(key))
        for tensor in self.tensors:
            digest.update(repr((tensor.name, tensor.shape, tensor.type.id, tensor.offset)).encode())
        for path in self.shard_paths:
            status = path.stat()
            digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()


def statistics_of(
    source: WeightSource, names: Sequence[str], *, n_threads: int | None = None
) -> list[WeightStatistics]:
    """Weight statistics of each named tensor of a source, streamed on all cores."""
    rows = core.weight_statistics(
        [source.stored_tensor(name) for name in names], n_threads=n_threads or default_threads()
    )
    return [WeightStatistics(*row) for row in rows]


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Open a GGUF model: a file, any shard of a split one, or a header without (all) data.

    ``hf://owner/repo[@revision]/file`` is downloaded into the cache of huggingface_hub. Raises
    GgufError, HubError.
    """
    return GgufFile(local_gguf(path))
