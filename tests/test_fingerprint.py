from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import gguf_builder as build
from apex_native.errors import GgufError
from apex_native.fingerprint import model_fingerprint, sampled_blocks
from apex_native.gguf import open_gguf
from gguf_builder import Tensor, ValueType, pair

N_LARGE = 100_000
"""BF16 weights of a tensor that is sampled: 200,000 bytes in blocks that do not touch."""

PAIRS = [pair("general.architecture", ValueType.STRING, "llama"), pair("a.b", ValueType.U32, 7)]


def large_data() -> bytes:
    return np.random.default_rng(8).integers(0, 256, 2 * N_LARGE, np.uint8).tobytes()


def tensors(data: bytes | None = None) -> list[Tensor]:
    return [
        Tensor("large.weight", (N_LARGE,), build.BF16, data or large_data()),
        build.f32_tensor("small.weight", np.arange(64.0)),
    ]


def fingerprint(path: Path) -> str:
    with open_gguf(path) as model:
        return model_fingerprint(model)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return build.write_gguf(tmp_path / "model.gguf", tensors(), PAIRS)


def test_it_is_a_sha256(original: Path) -> None:
    assert len(bytes.fromhex(fingerprint(original))) == hashlib.sha256().digest_size


def test_a_copy_touched_later_has_the_same(original: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(original, tmp_path / "other-name.gguf"))
    os.utime(copy, (0, 0))
    assert fingerprint(copy) == fingerprint(original)


def test_shards_have_the_fingerprint_of_the_whole(original: Path, tmp_path: Path) -> None:
    large, small = tensors()
    paths = build.write_shards(tmp_path, [[large], [small]], PAIRS)
    assert fingerprint(paths[0]) == fingerprint(paths[1]) == fingerprint(original)


@pytest.mark.parametrize(
    ("changed_tensors", "changed_pairs"),
    [
        (tensors(), [PAIRS[0], pair("a.b", ValueType.U32, 8)]),
        (tensors(), PAIRS[:1]),
        (tensors()[::-1], PAIRS),
        ([tensors()[0], build.f32_tensor("small.weight", np.arange(64.0)[::-1])], PAIRS),
        ([tensors()[0], build.f32_tensor("other.weight", np.arange(64.0))], PAIRS),
        ([Tensor("large.weight", (N_LARGE,), build.F16, large_data()), tensors()[1]], PAIRS),
        (
            [Tensor("large.weight", (2, N_LARGE // 2), build.BF16, large_data()), tensors()[1]],
            PAIRS,
        ),
    ],
    ids=["value", "fewer-pairs", "order", "data", "name", "type", "shape"],
)
def test_another_model_has_another(
    original: Path, tmp_path: Path, changed_tensors: list[Tensor], changed_pairs: list[bytes]
) -> None:
    other = build.write_gguf(tmp_path / "changed.gguf", changed_tensors, changed_pairs)
    assert fingerprint(other) != fingerprint(original)


@pytest.mark.parametrize("position", [0, 4095, 2 * N_LARGE - 4096, 2 * N_LARGE - 1])
def test_a_changed_byte_in_a_sampled_block_is_seen(
    original: Path, tmp_path: Path, position: int
) -> None:
    data = bytearray(large_data())
    data[position] ^= 1
    other = build.write_gguf(tmp_path / "changed.gguf", tensors(bytes(data)), PAIRS)
    assert fingerprint(other) != fingerprint(original)


def test_a_header_without_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "header.gguf"
    path.write_bytes(build.model_bytes(PAIRS, tensors(), with_data=False))
    with pytest.raises(GgufError, match="header without data"):
        fingerprint(path)


@pytest.mark.parametrize("nbytes", [0, 1, 65536, 65537, 200_000, 123_456_789, 2**40 + 1])
def test_blocks_lie_within_the_tensor_and_reach_both_ends(nbytes: int) -> None:
    blocks = list(sampled_blocks(nbytes))
    assert blocks[0][0] == 0
    assert blocks[-1][1] == nbytes
    assert all(begin <= end <= nbytes for begin, end in blocks)
    assert sum(end - begin for begin, end in blocks) == min(nbytes, 65536)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(blocks)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_tensor_just_too_large_is_still_seen_whole() -> None:
    # 65537 bytes in 16 blocks of 4096: a byte is left out somewhere, and blocks may not overlap.
    blocks = list(sampled_blocks(65537))
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(blocks))
