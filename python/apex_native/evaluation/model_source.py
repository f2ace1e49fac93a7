"""Where the weights of a model under test come from: a file, or something that is only in memory.

A new kind of candidate (tensors replaced in a loaded model, a model on another machine) is a class
with these members; nothing else in the evaluation needs to know of it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from apex_native.engine import Model, Placement
from apex_native.errors import GgufError
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import open_gguf
from apex_native.gguf_layout import model_stem

__all__ = ["ModelFile", "ModelSource"]


@runtime_checkable
class ModelSource(Protocol):
    """A model as results describe it, and the way to compute with it.

    Sources that are equal (``==``, with equal hashes) are one model: it is loaded once.
    """

    @property
    def name(self) -> str:
        """What results call it, unless a label says otherwise."""
        ...

    @property
    def path(self) -> Path | None:
        """Where its file lies; None for a model that has none."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size in bytes, as a file or in memory."""
        ...

    @property
    def bpw(self) -> float:
        """Stored bits a weight."""
        ...

    @property
    def fingerprint(self) -> str:
        """`apex_native.fingerprint.model_fingerprint`'s, or another hash of what it computes."""
        ...

    def open(self, placement: Placement) -> AbstractContextManager[Model]:
        """A loaded model inside the ``with`` block; what was changed for it is put back after.

        Models of different sources may be open at the same time.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file: bytes of all shards, stored bits a weight, a hash of what is in it."""

    name: str
    path: Path
    nbytes: int
    bpw: float
    fingerprint: str

    @classmethod
    def describe(cls, path: str | os.PathLike[str]) -> Self:
        """Look at a file, or any shard of one; GgufError where it is none or holds no weights."""
        with open_gguf(path) as file:
            if file.missing_data is not None:
                raise GgufError(f"{file.missing_data}; download the whole file")
            first = file.shard_paths[0]
            n_weights = sum(tensor.n_elements for tensor in file.tensors)
            stored = sum(tensor.nbytes for tensor in file.tensors)
            return cls(
                name=model_stem(first.stem),
                path=first,
                nbytes=sum(shard.stat().st_size for shard in file.shard_paths),
                bpw=8 * stored / n_weights,
                fingerprint=model_fingerprint(file),
            )

    def open(self, placement: Placement) -> AbstractContextManager[Model]:
        """Load it."""
        return placement.load(self.path)
