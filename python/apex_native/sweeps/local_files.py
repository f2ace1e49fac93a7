"""The files of a sweep as one machine has them: where they are shared, or in its own cache.

A file is used where its path leads to the right content; else it is looked for in the cache of this
machine, and copied there from the machine the sweep was started on. The hash decides, never the
name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from apex_native.errors import ApexError, DataError, OutputError
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import open_gguf
from apex_native.sweeps.jobs import SharedFile

__all__ = ["PIECE_BYTES", "Fetch", "LocalFiles", "read_piece", "shared_file", "shared_model"]

PIECE_BYTES = 16 << 20
"""What is copied at once: large enough for a network, small beside a worker's memory."""

Fetch = Callable[[str, int, int], bytes]
"""Bytes of a file of the machine the sweep was started on: path, offset, number."""


def shared_model(path: str | os.PathLike[str]) -> SharedFile:
    """A model file, by its fingerprint; GgufError."""
    with open_gguf(path) as file:
        n_bytes = sum(shard.stat().st_size for shard in file.shard_paths)
        return SharedFile(str(file.path.resolve()), n_bytes, model_fingerprint(file), is_model=True)


def shared_file(path: str | os.PathLike[str]) -> SharedFile:
    """Any other file, by its sha256; DataError where it cannot be read."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return SharedFile(str(path.resolve()), len(content), hashlib.sha256(content).hexdigest())


def read_piece(path: str, offset: int, n_bytes: int) -> bytes:
    """Part of a file of this machine."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(n_bytes)


class LocalFiles:
    """Finds files by their hash; fetch None: whatever is not where it should be is an error."""

    def __init__(self, cache: Path, fetch: Fetch | None = None) -> None:
        """Remember where copies go; nothing is made yet."""
        self._cache = cache
        self._fetch = fetch
        self._known: dict[SharedFile, Path] = {}

    def path(self, file: SharedFile) -> Path:
        """The file on this machine; copied if need be.

        Raises DataError where it is not here and cannot be had, or the path leads to another one;
        OutputError where the cache has no room.
        """
        if file not in self._known:
            self._known[file] = self._find(file)
        return self._known[file]

    def _find(self, file: SharedFile) -> Path:
        copy = self._cache / f"{file.digest[:32]}{Path(file.path).suffix}"
        for path in (Path(file.path), copy):
            if path.exists() and _is(path, file):
                return path
        if self._fetch is None:
            raise DataError(
                f"{file.path} is not here, or holds something else than when the sweep began; put "
                "it back, or start the sweep again"
            )
        self._copy(file, copy, self._fetch)
        if not _is(copy, file):
            copy.unlink(missing_ok=True)
            raise DataError(
                f"{file.path} changed while it was copied, or is one of several shards; put the "
                "model on storage that all machines share"
            )
        return copy

    def _copy(self, file: SharedFile, target: Path, fetch: Fetch) -> None:
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(target.parent).free
            if free < file.nbytes:
                raise OutputError(
                    f"{target.parent} has {free:,} bytes free and {Path(file.path).name} takes "
                    f"{file.nbytes:,}; free some, or put the model on storage all machines share"
                )
            with partial.open("wb") as out:
                for offset in range(0, file.nbytes, PIECE_BYTES):
                    out.write(fetch(file.path, offset, min(PIECE_BYTES, file.nbytes - offset)))
            partial.replace(target)
        except OSError as error:
            if isinstance(error, ApexError):
                raise
            raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)


def _is(path: Path, file: SharedFile) -> bool:
    try:
        found = shared_model(path) if file.is_model else shared_file(path)
    except (ApexError, OSError):
        return False
    return found.digest == file.digest
