"""Where weights come from: what classification, planning and quantization ask of a source.

`GgufFile` is one. Another, such as a checkpoint whose experts are tensors of their own, says what
its tensors would be in GGUF and of which ranges of rows they are made; nothing is copied before a
worker needs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from apex_native._native import core
from apex_native.types import GgufFacts, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Interruptible", "RowFiles", "RowRange", "WeightSource", "interrupt", "read_rows"]


@runtime_checkable
class WeightSource(Protocol):
    """A model whose weights can be read: metadata, a tensor table, rows on demand."""

    @property
    def facts(self) -> GgufFacts:
        """Metadata and tensor table, as a GGUF file of the model would have them."""
        ...

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The files that are read; no output may be one of them."""
        ...

    @property
    def missing_data(self) -> str | None:
        """Which file lacks what, as a sentence; None where all weights are there."""
        ...

    def encoded_pair(self, key: str) -> bytes:
        """A key-value pair as GGUF stores it; KeyError if absent."""
        ...

    def fingerprint(self) -> str:
        """Another one whenever anything in the files may have changed: a job resumes by it."""
        ...

    def stored_tensor(self, name: str) -> Any:
        """A tensor's rows for native readers, as `RowFiles.tensor` makes it; KeyError."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A source whose rows may be waited for, over a network for example."""

    def interrupt(self) -> None:
        """Let those who wait go, with Cancelled."""
        ...


def interrupt(source: WeightSource) -> None:
    """Work on a source was given up: let its workers end soon, where they may be waiting."""
    if isinstance(source, Interruptible):
        source.interrupt()


@dataclass(frozen=True, slots=True)
class RowRange:
    """n_rows rows of a tensor's type that lie one after the other in a file, from byte offset on.

    order, int32 (n_rows,): row i is the stored row order[i], for weights that a converter permutes;
    None: as they lie.
    """

    path: Path
    offset: int
    n_rows: int
    order: npt.NDArray[np.int32] | None = None


class RowFiles:
    """Opens each file once for the tensors that are made of its rows."""

    def __init__(self) -> None:
        """Nothing is open yet; files are closed with the last tensor that reads them."""
        self._files: dict[Path, Any] = {}

    def tensor(self, info: TensorInfo, ranges: Sequence[RowRange]) -> Any:
        """A tensor whose rows are those of the ranges, one after the other.

        An expert tensor (experts, rows, n_per_row) has its experts' rows in order. Raises
        GgufError where a range ends behind its file or a file cannot be opened, ValueError unless
        the ranges are exactly the tensor's rows.
        """
        return core.StoredTensor(
            info.name,
            info.type.id,
            list(info.shape),
            [(self._file(r.path), r.offset, r.n_rows, r.order) for r in ranges],
        )

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = core.MappedFile(os.fspath(path))
        return self._files[path]


def read_rows(source: WeightSource, name: str, first: int, n_rows: int) -> npt.NDArray[np.uint8]:
    """Stored bytes of a tensor's rows from first on, experts one after the other, uint8.

    Shape (n_rows, bytes of a row). Raises ValueError where there are not so many rows, KeyError,
    GgufError.
    """
    stored: npt.NDArray[np.uint8] = source.stored_tensor(name).read_rows(first, n_rows)
    info = next(tensor for tensor in source.facts.tensors if tensor.name == name)
    return stored.reshape(n_rows, info.type.row_bytes(info.n_per_row))
