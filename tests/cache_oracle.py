"""The turbo formats and attention in double, from csrc/turbo/README.md and not from the code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex_native.types import GgmlType

Floats = npt.NDArray[np.float64]

BLOCK = 64


@dataclass(frozen=True)
class Codebook:
    """Positive levels, where each ends, and how many units are one standard deviation."""

    levels: tuple[int, ...]
    ends: tuple[float, ...]
    sigma: float

    @property
    def signed(self) -> Floats:
        above = np.array(self.levels, np.float64)
        return np.concatenate([-above[::-1], above])


CODEBOOKS = {
    GgmlType.TURBO2: Codebook((21, 70), (45.5,), 46.35),
    GgmlType.TURBO3: Codebook((10, 31, 55, 88), (20.5, 43, 71.5), 40.91),
    GgmlType.TURBO4: Codebook(
        (5, 15, 25, 36, 48, 62, 79, 104), (10, 20, 30.5, 42, 55, 70.5, 91.5), 38.14
    ),
}
STEPS = np.arange(0.80, 1.2001, 0.05)


def unpack(stored: npt.NDArray[np.uint8], type: GgmlType) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scales (blocks,) and indices (blocks, 64) of stored bytes."""
    blocks = np.ascontiguousarray(stored).reshape(-1, type.block_bytes)
    scales = blocks[:, :2].copy().view(np.float16)[:, 0].astype(np.float64)
    words = blocks[:, 2:].copy().view("<u2").astype(np.int64)
    n_bits = {GgmlType.TURBO2: [2], GgmlType.TURBO3: [2, 1], GgmlType.TURBO4: [4]}[type]
    value = np.arange(BLOCK)
    group, k = value // 4, value % 4
    index = np.zeros((len(blocks), BLOCK), np.int64)
    first_word = done = 0
    for bits in n_bits:
        groups = 4 // bits
        word = words[:, first_word + group // groups]
        index |= (word >> (4 * k + bits * (group % groups)) & (2**bits - 1)) << done
        first_word += BLOCK // 4 // groups
        done += bits
    return scales, index


def decode(stored: npt.NDArray[np.uint8], type: GgmlType) -> Floats:
    """Values (blocks, 64)."""
    scales, index = unpack(stored, type)
    return scales[:, None] * CODEBOOKS[type].signed[index]


def encode(values: npt.NDArray[np.floating], type: GgmlType) -> tuple[Floats, Floats]:
    """Scales before they are rounded to 16 bits (blocks,), and levels (blocks, 64)."""
    book = CODEBOOKS[type]
    x = values.astype(np.float64).reshape(-1, BLOCK)
    norm = np.sqrt((x**2).sum(1))
    unit = norm / np.sqrt(BLOCK) / book.sigma
    best = np.full(len(x), -1.0)
    levels = np.zeros_like(x)
    for step in STEPS:
        found = np.array(book.levels, np.float64)[
            np.searchsorted(book.ends, np.abs(x) / (unit * step)[:, None])
        ]
        found = np.where(x < 0, -found, found)
        score = (x * found).sum(1) ** 2 / (found**2).sum(1)
        better = score > best
        best = np.where(better, score, best)
        levels[better] = found[better]
    return norm / np.sqrt((levels**2).sum(1)), levels


def attention(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Shapes: (sequence, query or cell, head, value)."""
    n = queries.shape[2] // keys.shape[2]
    keys, values = (np.repeat(a.astype(np.float64), n, axis=2) for a in (keys, values))
    scores = np.einsum("sqhd,snhd->shqn", queries.astype(np.float64), keys)
    scores /= np.sqrt(queries.shape[3])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("shqn,snhd->sqhd", weights, values)


def rotate(values: npt.NDArray[np.floating], width: int = BLOCK) -> Floats:
    """By Sylvester's orthonormal matrix, `width` values at a time, as llama.cpp rotates caches."""
    matrix = np.ones((1, 1))
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    rows = values.astype(np.float64).reshape(-1, width)
    return (rows @ matrix / np.sqrt(width)).reshape(values.shape)
