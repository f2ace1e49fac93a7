"""Texts as whole files of UTF-8: for calibration, for evaluation."""

from __future__ import annotations

import os
from pathlib import Path

from apex_native.errors import DataError

__all__ = ["read_text_file"]


def read_text_file(path: str | os.PathLike[str]) -> str:
    """The file without its last line break, as llama.cpp's programs read one.

    Raises DataError where it cannot be read, is a GGUF file or is not UTF-8.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the text {path}: {error.strerror}; check the path") from error
    if content.startswith(b"GGUF"):
        raise DataError(f"{path}: is a GGUF file, expected a text; were the two files swapped?")
    try:
        return content.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is no UTF-8; convert the text to UTF-8"
        ) from error
