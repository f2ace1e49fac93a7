"""Damaged and malicious GGUF files: each must end in a GgufError that names the file and the fault.

Every file is opened in a forked child, so a crash, an abort or a hang is a failed test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gguf_builder as build
from apex_native._native import core
from apex_native.errors import GgufError
from apex_native.gguf import open_gguf
from gguf_builder import ValueType as V
from hostile_files import ARCHITECTURE, DATA, HOSTILE, SOUND, WEIGHT_ROW, parse, with_type
from isolation import Isolation


def assert_refused(isolation: Isolation, path: Path, word: str, named: Path | None = None) -> None:
    """The file is refused with a GgufError that names it and has the word."""
    outcome = isolation.run(parse, str(path))
    assert "GgufError" in outcome.error, f"no GgufError but {outcome}"
    assert str(named or path) in outcome.message
    assert word in outcome.message


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(isolation: Isolation, tmp_path: Path, case: str) -> None:
    content, word = HOSTILE[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    assert_refused(isolation, path, word)


def test_type_count_of_this_ggml_is_refused(isolation: Isolation, tmp_path: Path) -> None:
    n_types = core.n_types
    path = tmp_path / "hostile.gguf"
    path.write_bytes(with_type(n_types))
    assert_refused(isolation, path, f"type number {n_types}")


def test_sound_file_is_read(isolation: Isolation, tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    path.write_bytes(SOUND)
    assert isolation.run(parse, str(path)).value == int(np.frombuffer(DATA, np.uint8).sum())


@pytest.mark.parametrize("field", ["n_pairs", "n_tensors"])
def test_count_that_a_huge_file_could_hold(
    isolation: Isolation, tmp_path: Path, field: str
) -> None:
    # A sparse file of 1 TB costs nothing to send; believing its counts costs all memory.
    path = tmp_path / "sparse.gguf"
    path.write_bytes(build.file_bytes(**{field: 2**32}))
    os.truncate(path, 2**40)
    assert_refused(isolation, path, "the limit is")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(0)


def test_a_crash_would_be_seen(isolation: Isolation) -> None:
    with pytest.raises(AssertionError, match="died of SIGSEGV"):
        isolation.run(crash)
    with pytest.raises(AssertionError, match="ended its process"):
        isolation.run(leave)


# --- truncation ---------------------------------------------------------------------------------


def rich_header() -> tuple[bytes, int]:
    """A header with every kind of value, and where its tensor table ends."""
    pairs = [
        ARCHITECTURE,
        build.pair("a.u8", V.U8, 1),
        build.pair("a.f64", V.F64, 1.0),
        build.pair("a.bool", V.BOOL, True),
        build.pair("a.numbers", V.I16, [1, -2, 3]),
        build.pair("a.words", V.STRING, ["a", "bc"]),
        build.pair("a.long", V.U8, [7] * 5000),
        build.pair("a.tokens", V.STRING, ["x"] * 4100),
    ]
    rows = [WEIGHT_ROW, build.tensor_row("u.weight", (32, 2, 2, 1), build.F16, 1024)]
    return build.file_bytes(pairs, rows, alignment=1), len(build.file_bytes((), rows, alignment=1))


def parse_prefixes(path: str, lengths: list[int]) -> list[int]:
    """The lengths at which the file is not refused with a GgufError naming it."""
    accepted = []
    for length in sorted(lengths, reverse=True):
        os.truncate(path, length)
        try:
            parse(path)
            accepted.append(length)
        except GgufError as error:
            if path not in str(error):
                raise
    return accepted


def test_every_truncation_of_the_header_is_refused(isolation: Isolation, tmp_path: Path) -> None:
    header, _ = rich_header()
    path = tmp_path / "cut.gguf"
    path.write_bytes(header)
    dense = [*range(300), *range(len(header) - 200, len(header) + 1)]
    lengths = sorted({*dense, *range(300, len(header), 97)})
    assert isolation.run(parse_prefixes, str(path), lengths).value == [len(header)]


def test_every_truncation_of_the_data_is_refused(isolation: Isolation, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(SOUND)
    header_bytes = len(SOUND) - len(DATA)
    table_bytes = len(build.file_bytes([ARCHITECTURE], [WEIGHT_ROW], alignment=1))
    accepted = isolation.run(parse_prefixes, str(path), list(range(len(SOUND) + 1))).value
    # Between table and data lies padding: there the file is a header without data.
    assert sorted(accepted) == [*range(table_bytes, header_bytes + 1), len(SOUND)]


# --- things that are not files ------------------------------------------------------------------


def test_directory(isolation: Isolation, tmp_path: Path) -> None:
    assert_refused(isolation, tmp_path, "not a regular file")


def test_fifo_does_not_wait_for_a_writer(isolation: Isolation, tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    assert_refused(isolation, path, "not a regular file")


def test_device(isolation: Isolation) -> None:
    assert_refused(isolation, Path(os.devnull), "not a regular file")


def test_missing_file(isolation: Isolation, tmp_path: Path) -> None:
    assert_refused(isolation, tmp_path / "absent.gguf", "No such file")


def test_symlink_loop(isolation: Isolation, tmp_path: Path) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path)
    assert_refused(isolation, path, "cannot open")


def test_file_name_that_is_not_utf8(isolation: Isolation, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf")
    Path(path).write_bytes(SOUND[:-1])
    outcome = isolation.run(parse, path)
    assert "GgufError" in outcome.error
    assert r"\xff.gguf: the file is truncated" in outcome.message


# --- shards -------------------------------------------------------------------------------------

Spoil = Callable[[list[Path]], None]


def shard_bytes(*pairs: bytes, name: str = "spoilt.weight") -> bytes:
    return build.model_bytes(pairs, [build.f32_tensor(name, np.zeros((2, 32)))])


def replace_pairs(shard: int, *pairs: bytes) -> Spoil:
    return lambda paths: paths[shard].write_bytes(shard_bytes(*pairs)) and None


def remove_second(paths: list[Path]) -> None:
    paths[1].unlink()


def swap_second_and_third(paths: list[Path]) -> None:
    second, third = paths[1].read_bytes(), paths[2].read_bytes()
    paths[1].write_bytes(third)
    paths[2].write_bytes(second)


def repeat_tensor(paths: list[Path]) -> None:
    pairs = build.split_pairs(1, 3, 3)
    paths[1].write_bytes(shard_bytes(*pairs, name="blk.0.weight"))


def cut_third(paths: list[Path]) -> None:
    os.truncate(paths[2], paths[2].stat().st_size - 1)


def no(index: int) -> bytes:
    return build.pair("split.no", V.U16, index)


def count(n_shards: int) -> bytes:
    return build.pair("split.count", V.U16, n_shards)


SPOILT: dict[str, tuple[Spoil, str, int]] = {
    # how, the word, which file is named
    "sibling missing": (remove_second, "cannot open", 1),
    "sibling damaged": (cut_third, "truncated", 2),
    "sibling empty": (lambda paths: paths[1].write_bytes(b"") and None, "empty", 1),
    "siblings swapped": (swap_second_and_third, "expected number 2 of 3", 1),
    "tensor in two shards": (repeat_tensor, "'blk.0.weight' is in two shards", 1),
    "wrong split.no": (replace_pairs(0, no(1), count(3)), "its name must end in", 0),
    "split.no beyond the count": (replace_pairs(0, no(9), count(3)), "its name must end in", 0),
    "wrong split.count": (replace_pairs(0, no(0), count(2)), "its name must end in", 0),
    "sibling counts otherwise": (replace_pairs(1, no(1), count(4)), "expected number 2 of 3", 1),
    "sibling without split.no": (replace_pairs(1, count(3)), "expected number 2 of 3", 1),
    "sibling without split.count": (replace_pairs(1, no(1)), "expected number 2 of 3", 1),
    "split.count a string": (
        replace_pairs(0, no(0), build.pair("split.count", V.STRING, "3")),
        "split.count must be a single integer",
        0,
    ),
    "split.count an array": (
        replace_pairs(0, no(0), build.pair("split.count", V.U16, [3])),
        "split.count must be a single integer",
        0,
    ),
    "split.count an empty array": (
        replace_pairs(0, no(0), build.pair("split.count", V.U16, [])),
        "split.count must be a single integer",
        0,
    ),
    "split.count -1": (
        replace_pairs(0, no(0), build.pair("split.count", V.I32, -1)),
        "split.count is -1",
        0,
    ),
    "split.count 2^64-1": (
        replace_pairs(0, no(0), build.pair("split.count", V.U64, 2**64 - 1)),
        "split.count is 18446744073709551615",
        0,
    ),
    "split.no 2^64-1": (
        replace_pairs(0, build.pair("split.no", V.U64, 2**64 - 1), count(3)),
        "its name must end in",
        0,
    ),
    "split.no a bool": (
        replace_pairs(0, build.pair("split.no", V.BOOL, False), count(3)),
        "split.no must be a single integer",
        0,
    ),
    "wrong split.tensors.count": (
        replace_pairs(0, *build.split_pairs(0, 3, 7)),
        "split.tensors.count says 7",
        0,
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_shards(isolation: Isolation, tmp_path: Path, case: str) -> None:
    spoil, word, named = SPOILT[case]
    tensors = [[build.f32_tensor(f"blk.{i}.weight", np.ones((2, 32)))] for i in range(3)]
    paths = build.write_shards(tmp_path, tensors, [ARCHITECTURE])
    assert isolation.run(parse, str(paths[0])).value > 0
    spoil(paths)
    assert_refused(isolation, paths[0], word, named=paths[named])


def test_renamed_shard(isolation: Isolation, tmp_path: Path) -> None:
    tensors = [[build.f32_tensor(f"blk.{i}.weight", np.ones((2, 32)))] for i in range(2)]
    paths = build.write_shards(tmp_path, tensors)
    renamed = paths[0].rename(tmp_path / "model.gguf")
    assert_refused(isolation, renamed, "rename it back")


# --- files that change under us -----------------------------------------------------------------


def quantize_truncated(path: str, output: str) -> None:
    """Starts a job on a file that has lost its second half after it was opened."""
    file = open_gguf(path)
    os.truncate(path, Path(path).stat().st_size // 2)
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT)
    task = core.QuantizeTask(
        file.stored_tensor("t.weight"), build.Q8_0, output_fd=descriptor, output_offset=0
    )
    job = core.QuantizeJob([task], n_threads=2, max_memory=2**28)
    while not job.finished:
        job.wait(1000)


def statistics_of_truncated(path: str) -> None:
    file = open_gguf(path)
    os.truncate(path, Path(path).stat().st_size // 2)
    file.statistics(["t.weight"])


@pytest.mark.parametrize("call", [quantize_truncated, statistics_of_truncated])
def test_truncated_while_open(
    isolation: Isolation, tmp_path: Path, call: Callable[..., None]
) -> None:
    weights = np.ones((64, 16384), dtype=np.float32)
    path = build.write_gguf(tmp_path / "model.gguf", [build.f32_tensor("t.weight", weights)])
    extra = (str(tmp_path / "out"),) if call is quantize_truncated else ()
    outcome = isolation.run(call, str(path), *extra)
    assert "GgufError" in outcome.error, outcome
    assert str(path) in outcome.message
    assert "truncated while being read" in outcome.message
