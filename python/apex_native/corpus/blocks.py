"""Large text files in blocks of whole lines, so that any part can be read without the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["BLOCK_BYTES", "block_count", "block_lines"]

BLOCK_BYTES = 256 * 1024
"""A block has some 60 documents; one source keeps a few blocks in memory."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""The rest of a longer line is dropped: a file without line breaks must not fill the memory."""


def block_count(size: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Blocks of a file of so many bytes."""
    return -(-size // block_bytes)


def block_lines(path: Path, index: int, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The lines that begin in a block, each once over all blocks, with their line ends."""
    start, end = index * block_bytes, (index + 1) * block_bytes
    with path.open("rb") as file:
        if start:
            # A line that begins exactly at start is ours: then this reads the line end before it.
            file.seek(start - 1)
            _skip_line(file, end)
        while file.tell() < end:
            line = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file, None)
                line = _whole_characters(line)
            yield line


def _skip_line(file: BinaryIO, end: int | None) -> None:
    while end is None or file.tell() < end:
        part = file.readline(64 * 1024)
        if not part or part.endswith(b"\n"):
            return


def _whole_characters(line: bytes) -> bytes:
    """Without the last character, of which a part may be missing."""
    cut = len(line) - 1
    while cut > 0 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return line[:cut]
