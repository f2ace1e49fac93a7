"""Compare two GGUF files tensor by tensor, with a reader of its own: no code under test involved.

Sizes come from the distance to the next tensor, so types need no table here.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 32
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Stored:
    """A tensor as the file has it; data holds its bytes and the padding behind them."""

    type_number: int
    ne: tuple[int, ...]
    data: memoryview


class _Cursor:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def number(self, code: str) -> int:
        value = struct.unpack_from("<" + code, self.data, self.position)[0]
        self.position += struct.calcsize(code)
        return int(value)

    def text(self) -> str:
        n_bytes = self.number("Q")
        self.position += n_bytes
        return bytes(self.data[self.position - n_bytes : self.position]).decode()

    def skip_value(self, kind: int) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            element, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.skip_value(element)
        else:
            self.position += SCALAR_BYTES[kind]


def read_tensors(path: Path) -> dict[str, Stored]:
    """All tensors of a little-endian GGUF v3 file with alignment 32."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    cursor = _Cursor(data)
    assert bytes(data[:4]) == b"GGUF"
    cursor.position = 8
    n_tensors, n_pairs = cursor.number("Q"), cursor.number("Q")
    for _ in range(n_pairs):
        cursor.text()
        cursor.skip_value(cursor.number("I"))
    table = []
    for _ in range(n_tensors):
        name = cursor.text()
        ne = tuple(cursor.number("Q") for _ in range(cursor.number("I")))
        table.append((name, ne, cursor.number("I"), cursor.number("Q")))
    begin = -(-cursor.position // ALIGNMENT) * ALIGNMENT
    ends = sorted({offset for *_, offset in table} | {len(data) - begin})
    following = dict(itertools.pairwise(ends))
    return {
        name: Stored(kind, ne, data[begin + offset : begin + following[offset]])
        for name, ne, kind, offset in table
    }


def differing_tensors(ours: Path, theirs: Path) -> list[str]:
    """One line per tensor whose type, shape or bytes differ, or that only one file has."""
    left, right = read_tensors(ours), read_tensors(theirs)
    problems = [f"{name}: only in one file" for name in left.keys() ^ right.keys()]
    for name in left.keys() & right.keys():
        a, b = left[name], right[name]
        if a.type_number != b.type_number:
            problems.append(f"{name}: type {a.type_number} here, {b.type_number} there")
        elif a.ne != b.ne:
            problems.append(f"{name}: shape {a.ne} here, {b.ne} there")
        elif a.data != b.data:
            problems.append(f"{name}: bytes differ (type {a.type_number})")
    return sorted(problems)
