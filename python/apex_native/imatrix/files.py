"""Importance matrices as files: llama.cpp's GGUF and legacy ``.dat``, read and written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

import numpy as np

from apex_native.argument_kinds import require_kind
from apex_native.atomic_write import require_file
from apex_native.errors import ImatrixError, OutputError
from apex_native.gguf import open_gguf
from apex_native.imatrix.entries import Imatrix, ImatrixEntry
from apex_native.imatrix.gguf_format import encode_gguf, read_gguf
from apex_native.imatrix.legacy_format import LegacyReader, encode_legacy

__all__ = ["ImatrixFormat", "atomic_file", "load_imatrix", "save_imatrix", "sealed"]

ImatrixFormat = Literal["gguf", "dat"]


def load_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read an importance matrix in either format, normalised as llama-quantize does.

    Raises ImatrixError where the file is damaged, lacks what llama-quantize demands, or holds
    values that are not finite or negative; the message names the tensor and the expert.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImatrixError(
            f"cannot read importance matrix {path}: {error.strerror}; check the path"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if content[:4] == b"GGUF":
        with open_gguf(path) as file:
            found = read_gguf(file)
        imatrix = Imatrix(
            MappingProxyType(found.entries), path, sha256, found.chunk_count, found.datasets,
            is_legacy=False, chunk_size=found.chunk_size, settings=found.settings,
        )  # fmt: skip
    else:
        entries, chunk_count, datasets = LegacyReader(path, content).read()
        imatrix = Imatrix(
            MappingProxyType(entries), path, sha256, chunk_count, datasets, is_legacy=True
        )
    for name, entry in imatrix.entries.items():
        _require_usable(path, name, entry)
    return imatrix


def as_imatrix(imatrix: Imatrix | str | os.PathLike[str]) -> Imatrix:
    """The matrix itself, or `load_imatrix` of a path; TypeError for anything else."""
    require_kind(
        *("imatrix", imatrix, (Imatrix, str, os.PathLike)),
        "give a path, or what load_imatrix or calibrate gave",
    )
    return imatrix if isinstance(imatrix, Imatrix) else load_imatrix(imatrix)


def save_imatrix(
    imatrix: Imatrix, path: str | os.PathLike[str], *, format: ImatrixFormat = "gguf"
) -> Imatrix:
    """Write a file that llama-quantize and `load_imatrix` read; it appears when it is whole.

    Raw sums and counts are stored, whatever prior was applied. "dat" is the legacy format, which
    drops the experts' counts. Returns the matrix as the file has it: with its path and hash.
    Raises OutputError where it cannot be written, ImatrixError where the format cannot hold it.
    """
    require_kind("imatrix", imatrix, Imatrix, "give what load_imatrix or calibrate gave")
    path = Path(path)
    if format == "gguf" and imatrix.is_legacy:
        raise ImatrixError(
            f"{imatrix.path}: a legacy file does not store tokens, so that no GGUF importance "
            "matrix can be made of it; keep it as it is, or collect it again"
        )
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for piece in encode_gguf(imatrix) if format == "gguf" else encode_legacy(imatrix):
            digest.update(piece)
            file.write(piece)
    return replace(imatrix, path=path, sha256=digest.hexdigest())


def sealed(imatrix: Imatrix) -> Imatrix:
    """The matrix with the hash its GGUF file would have."""
    return replace(imatrix, sha256=_hash(encode_gguf(imatrix)))


def _hash(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes path's place, synced, when the block ends without an error.

    A kill leaves ``PATH.tmp``, which the next write takes over.
    """
    require_file(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _require_usable(path: Path, name: str, entry: ImatrixEntry) -> None:
    bad = ~(np.isfinite(entry.values) & (entry.values >= 0))
    if bad.any():
        slice_, column = (int(i) for i in np.argwhere(bad)[0])
        raise ImatrixError(
            f"{path}: '{name}', expert {slice_}, column {column} holds "
            f"{entry.values[slice_, column]}, expected a finite value >= 0; collect it again"
        )
