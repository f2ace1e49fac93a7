"""Rows that are computed when a worker asks for them: each block once, whoever asks."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core

N_ROWS, PER_BLOCK, N_PER_ROW = 103, 8, 4
ROW_BYTES = 4 * N_PER_ROW
VALUES = np.arange(N_ROWS * N_PER_ROW, dtype=np.float32).reshape(N_ROWS, N_PER_ROW)


class Maker:
    """Gives the blocks of VALUES, and counts what was asked of it."""

    def __init__(self) -> None:
        self.made: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, block: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            self.made[block] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        rows = VALUES[block * PER_BLOCK : (block + 1) * PER_BLOCK]
        with self._lock:
            self.at_once -= 1
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)


def tensor_of(make: Any, n_rows: int = N_ROWS) -> Any:
    blocks = core.RowBlocks(n_rows, PER_BLOCK, ROW_BYTES, make)
    f32 = apex.GgmlType.F32.id
    return core.StoredTensor("t", f32, [n_rows, N_PER_ROW], [(blocks, 0, n_rows, None)])


def rows(tensor: Any, first: int, n_rows: int) -> npt.NDArray[np.float32]:
    return tensor.read_rows(first, n_rows).view(np.float32).reshape(n_rows, N_PER_ROW)


@pytest.mark.parametrize("step", [1, 3, 8, 20, N_ROWS])
def test_reading_in_order_makes_each_block_once(step: int) -> None:
    maker = Maker()
    tensor = tensor_of(maker)
    parts = [rows(tensor, at, min(step, N_ROWS - at)) for at in range(0, N_ROWS, step)]
    assert np.array_equal(np.concatenate(parts), VALUES)
    assert maker.made == dict.fromkeys(range(13), 1)


def test_a_block_is_let_go_when_its_last_row_was_read() -> None:
    maker = Maker()
    tensor = tensor_of(maker)
    rows(tensor, 0, PER_BLOCK)
    assert np.array_equal(rows(tensor, 0, 1), VALUES[:1])
    assert maker.made == {0: 2}
    assert np.array_equal(rows(tensor, 6, 4), VALUES[6:10])
    assert maker.made == {0: 2, 1: 1}


def test_workers_share_the_blocks() -> None:
    maker = Maker()
    tensor = tensor_of(maker)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: rows(tensor, row, 1)[0], range(N_ROWS)))
    assert np.array_equal(np.stack(found), VALUES)
    assert maker.made.keys() == set(range(13))
    assert sum(maker.made.values()) < 26  # one that was prepared too late is made in vain


def test_an_error_of_the_maker_is_the_readers() -> None:
    class OddError(Exception):
        pass

    def fails(block: int) -> npt.NDArray[np.uint8]:
        if block == 1:
            raise OddError("no such block")
        return Maker()(block)

    tensor = tensor_of(fails)
    assert np.array_equal(rows(tensor, 0, PER_BLOCK), VALUES[:PER_BLOCK])
    for _ in range(2):  # nothing of it stays behind
        with pytest.raises(OddError, match="no such block"):
            rows(tensor, PER_BLOCK, 1)


def test_a_block_of_another_size_is_refused() -> None:
    tensor = tensor_of(lambda _: np.zeros(ROW_BYTES, np.uint8))
    with pytest.raises(ValueError, match=r"block 0 has 16 bytes, expected 128"):
        rows(tensor, 0, 1)
    for wrong in (np.zeros(128, np.float32), np.zeros((8, 32), np.uint8).T, b"x", None):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            rows(tensor_of(lambda _, wrong=wrong: wrong), 0, 1)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_blocks_of_nothing_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        core.RowBlocks(*sizes, Maker())


def test_blocks_must_be_the_tensors_rows() -> None:
    blocks = core.RowBlocks(4, 2, ROW_BYTES, Maker())
    f32 = apex.GgmlType.F32.id
    for shape, given in (([5, 4], (blocks, 0, 4, None)), ([4, 8], (blocks, 0, 4, None)),
                         ([4, 4], (blocks, 16, 4, None))):  # fmt: skip
        with pytest.raises(ValueError, match="rows"):
            core.StoredTensor("t", f32, shape, [given])
