"""Checksums of written tensors: XXH64 of rows, by the specification, whoever adds them up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import apex_native as apex
from cli_tools import invoke
from tiny_models import write_tiny_model

# The constants of the XXH64 algorithm, xxHash fast digest algorithm 0.1.1.
PRIMES = (
    *(0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
    *(0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5),
)
MASK = (1 << 64) - 1


def rotated(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & MASK


def mixed(lane: int, word: int) -> int:
    return rotated((lane + word * PRIMES[1]) & MASK, 31) * PRIMES[0] & MASK


def xxh64(data: bytes, seed: int) -> int:
    p1, p2, p3, p4, p5 = PRIMES
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    n_striped = len(data) // 32 * 4
    if len(data) < 32:
        h = seed + p5
    else:
        lanes = [(seed + p1 + p2) & MASK, (seed + p2) & MASK, seed, (seed - p1) & MASK]
        for i in range(n_striped):
            lanes[i % 4] = mixed(lanes[i % 4], words[i])
        h = sum(rotated(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            h = ((h ^ mixed(0, lane)) * p1 + p4) & MASK
    h = (h + len(data)) & MASK
    for word in words[n_striped : len(data) // 8]:
        h = (rotated(h ^ mixed(0, word), 27) * p1 + p4) & MASK
    rest = data[len(data) // 8 * 8 :]
    if len(rest) >= 4:
        h ^= int.from_bytes(rest[:4], "little") * p1 & MASK
        h, rest = (rotated(h, 23) * p2 + p3) & MASK, rest[4:]
    for byte in rest:
        h = rotated(h ^ byte * p5 & MASK, 11) * p1 & MASK
    h = (h ^ h >> 33) * p2 & MASK
    h = (h ^ h >> 29) * p3 & MASK
    return h ^ h >> 32


@pytest.mark.parametrize(
    ("text", "digest"),  # of the xxhsum program, seed 0
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_oracle_is_xxh64(text: bytes, digest: int) -> None:
    assert xxh64(text, 0) == digest


def tensors_of(path: Path) -> dict[str, str]:
    document = json.loads(path.with_name(f"{path.name}.manifest.json").read_text())
    return {tensor["name"]: tensor["checksum"] for tensor in document["tensors"]}


@pytest.mark.parametrize("threads", [1, 2])
def test_manifests_hold_the_sum_over_rows(tmp_path: Path, threads: int) -> None:
    source = write_tiny_model(tmp_path / "Tiny-4x1M-F32.gguf", "qwen3moe")
    done = invoke("quantize", source, "--type", "Q8_0,Q5_0", "--threads", threads, "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    for path in tmp_path.glob("Tiny-4x1M-Q*.gguf"):
        with apex.open_gguf(path) as file:
            expected = {}
            for tensor in file.tensors:
                data = file.tensor_bytes(tensor.name).tobytes()
                n_rows = tensor.n_elements // tensor.n_per_row
                size = len(data) // n_rows
                rows = (data[i * size : (i + 1) * size] for i in range(n_rows))
                expected[tensor.name] = f"{sum(map(xxh64, rows, range(n_rows))) & MASK:016x}"
            assert file.checksums(n_threads=threads) == expected
        assert tensors_of(path) == expected
