"""Calibration texts from files, read as llama-imatrix reads its ``-f``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from apex_native.errors import DataError

__all__ = ["read_text"]


def read_text(paths: Sequence[str | os.PathLike[str]]) -> str:
    """The files' texts one after the other, each without one final newline (common/arg.cpp).

    Raises DataError where a file cannot be read, is empty or is not UTF-8.
    """
    return "\n".join(_read(Path(path)) for path in paths)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the text {path}: {error.strerror}") from error
    if content.startswith(b"GGUF"):
        raise DataError(f"{path}: is a GGUF file, expected a text; were the two files swapped?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is no UTF-8; convert the text to UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{path}: there is no text in it")
    return text.removesuffix("\n")
