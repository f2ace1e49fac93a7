"""SHA-256 of everything that is uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["SUMS_NAME", "sha256_of", "sums_text"]

SUMS_NAME = "SHA256SUMS"
_BLOCK = 1 << 22


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sums_text(
    folder: Path, names: Iterable[str], starting: Callable[[str], None] | None = None
) -> tuple[str, dict[str, str]]:
    """The text of SHA256SUMS, as ``sha256sum --check`` reads it, and the sums by name."""
    sums = {}
    for name in names:
        if starting is not None:
            starting(name)
        sums[name] = sha256_of(folder / name)
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()), sums
