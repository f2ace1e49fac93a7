"""llama.cpp's first importance-matrix format: counts of chunks and scaled means, no experts.

i32 n; per entry i32 length, name, i32 calls, i32 n, float values = mean * calls; then optionally
i32 chunks, i32 length, dataset (tools/imatrix/imatrix.cpp, save_imatrix_legacy).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Floats, Imatrix, ImatrixEntry

__all__ = ["LegacyReader", "encode_legacy"]

MAX_ENTRIES = 1_000_000


class LegacyReader:
    """Reads a file's content with every check."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Take the bytes; path is for messages."""
        self._path = path
        self._content = content
        self._position = 0

    def read(self) -> tuple[dict[str, ImatrixEntry], int, tuple[str, ...]]:
        """Entries, chunk count and datasets; ImatrixError where the content is damaged."""
        n_entries = self._int("the number of entries")
        if not 1 <= n_entries <= MAX_ENTRIES:
            raise ImatrixError(
                f"{self._path}: neither a GGUF nor a legacy importance matrix: "
                f"it would hold {n_entries} entries"
            )
        entries = dict(self._entry() for _ in range(n_entries))
        if self._position == len(self._content):
            return entries, 0, ()
        chunk_count = self._int("the chunk count")
        dataset = self._take(self._int("the dataset's length"), "the dataset's name")
        return entries, chunk_count, (dataset.decode("utf-8", "replace"),) if dataset else ()

    def _entry(self) -> tuple[str, ImatrixEntry]:
        name = self._take(self._int("a name's length"), "a tensor name").decode("utf-8", "replace")
        n_calls = self._int(f"the calls of '{name}'")
        n_values = self._int(f"the number of values of '{name}'")
        if n_values < 1:
            raise ImatrixError(f"{self._path}: '{name}' announces {n_values} values")
        raw = self._take(4 * n_values, f"the values of '{name}'")
        sums = np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(1, -1)
        # Without calls llama-quantize takes the values as they are.
        counts = np.array([max(n_calls, 0) or 1], np.float64)
        return name, ImatrixEntry.from_sums(sums, counts, counts_tokens=False)

    def _int(self, what: str) -> int:
        number: int = struct.unpack("<i", self._take(4, what))[0]
        return number

    def _take(self, n_bytes: int, what: str) -> bytes:
        end = self._position + n_bytes
        if n_bytes < 0 or end > len(self._content):
            left = len(self._content) - self._position
            raise ImatrixError(
                f"{self._path}: neither a GGUF nor a whole legacy importance matrix: {what} at "
                f"byte {self._position} needs {n_bytes} bytes, {left} are left"
            )
        taken = self._content[self._position : end]
        self._position = end
        return taken


def encode_legacy(imatrix: Imatrix) -> Iterator[bytes]:
    """The file's bytes, piece by piece, as llama-imatrix writes them.

    Experts lose their counts, an unseen one is stored as 1, an entry without any data is left out.
    """
    stored = {name: entry for name, entry in imatrix.entries.items() if entry.counts.any()}
    yield struct.pack("<i", len(stored))
    for name in sorted(stored, key=str.encode):
        entry = stored[name]
        n_calls = _calls(entry, imatrix)
        encoded = name.encode()
        yield struct.pack("<i", len(encoded)) + encoded
        yield struct.pack("<ii", n_calls, entry.sums.size)
        yield _scaled(entry, n_calls).tobytes()
    dataset = imatrix.datasets[-1].encode() if imatrix.datasets else b""
    yield struct.pack("<ii", imatrix.chunk_count, len(dataset)) + dataset


def _calls(entry: ImatrixEntry, imatrix: Imatrix) -> int:
    largest = int(entry.counts.max())
    return largest if imatrix.is_legacy else -(-largest // max(imatrix.chunk_size, 1))


def _scaled(entry: ImatrixEntry, n_calls: int) -> Floats:
    seen = (entry.counts > 0)[:, None]
    counts = np.where(seen, entry.counts[:, None], 1).astype(np.float32)
    values = np.where(seen, entry.sums, np.float32(1))
    return (values / counts * np.float32(n_calls)).astype("<f4")
