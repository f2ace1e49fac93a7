"""Writes the reference's log-probabilities as llama-perplexity does, for other programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from apex_native.errors import OutputError
from apex_native.evaluation.divergence.text import Chunks

__all__ = ["BaseOutput", "base_file_bytes"]


def base_file_bytes(chunks: Chunks, n_vocab: int) -> int:
    """The size of the file: header, tokens, and 16 bits a token of the vocabulary and position."""
    record = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    return 20 + 4 * len(chunks.tokens) + chunks.data.n_chunks * chunks.n_scored * record


class BaseOutput:
    """The file, under a temporary name until everything is in it; path None writes nothing."""

    def __init__(self, path: Path | None, chunks: Chunks) -> None:
        """Name the file; nothing is written yet."""
        self._path = path
        self._chunks = chunks
        self._descriptor = -1
        self._temporary = None if path is None else path.with_name(f"{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Self:
        """Open the temporary file; OutputError."""
        if self._temporary is not None:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._descriptor = os.open(self._temporary, flags, 0o666)
            except OSError as error:
                raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        return self

    @property
    def writer(self) -> Callable[[Any], None] | None:
        """`attach`, None where nothing is written."""
        return None if self._path is None else self.attach

    def attach(self, scorer: Any) -> None:
        """Let the scorer write into it; OutputError where the disk has no room."""
        assert self._path is not None
        needed = base_file_bytes(self._chunks, scorer.n_vocab)
        free = shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise OutputError(
                f"{self._path} needs {needed:,} bytes, {free:,} are free; "
                "choose another place for `save_base`, or fewer `chunks`"
            )
        scorer.write_base(self._descriptor, self._chunks.tokens)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename the file to its name, or remove it after an error."""
        if self._temporary is None or self._path is None:
            return
        try:
            if error is None:
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            if error is None:
                self._temporary.replace(self._path)
            else:
                self._temporary.unlink(missing_ok=True)
        except OSError as failure:
            raise OutputError(f"cannot write {self._path}: {failure.strerror}") from failure
