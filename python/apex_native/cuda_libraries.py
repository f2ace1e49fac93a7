"""CUDA's libraries where no loader looks: in the wheels that pip installs.

A CUDA build names libcudart and libcublas. The loader finds those of a toolkit; those of the wheels
``nvidia-cuda-runtime`` and ``nvidia-cublas`` lie in site-packages and must be loaded beforehand.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["load_from_wheels"]

_NAMES = ("libcudart", "libcublasLt", "libcublas")
"""Each after those it needs."""

_MISSING = re.compile(r"lib(?:cudart|cublas|cublasLt)\.so\.(\d+)")


def load_from_wheels(message: str, folders: Iterable[str] | None = None) -> bool:
    """Load what wheels have of the libraries whose absence an import complained about.

    folders: site-packages to search, default `sys.path`. False where the message misses none of
    CUDA's libraries; after True the import is worth another try.
    """
    missing = _MISSING.search(message)
    if missing is None:
        return False
    searched = [Path(folder) for folder in (sys.path if folders is None else folders)]
    for name in _NAMES:
        _load(f"{name}.so.{missing[1]}", searched)
    return True


def _load(name: str, folders: list[Path]) -> None:
    # nvidia/cu13/lib, or nvidia/cublas/lib of older wheels.
    for path in (
        path for folder in folders for path in sorted(folder.glob(f"nvidia/*/lib/{name}"))
    ):
        with suppress(OSError):  # the import says what is still missing
            ctypes.CDLL(str(path))
            return
