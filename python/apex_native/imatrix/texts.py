"""Calibration texts from files, read as llama-imatrix reads its ``-f``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from apex_native.errors import DataError
from apex_native.text_file import read_text_file

__all__ = ["read_text"]


def read_text(paths: Sequence[str | os.PathLike[str]]) -> str:
    """The files' texts one after the other, each without one final newline (common/arg.cpp).

    Raises DataError where a file cannot be read, is empty or is not UTF-8.
    """
    return "\n".join(_read(Path(path)) for path in paths)


def _read(path: Path) -> str:
    text = read_text_file(path)
    if not text.strip():
        raise DataError(f"{path}: there is no text in it; give another file")
    return text
