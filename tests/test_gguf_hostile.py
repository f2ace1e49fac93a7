"""Damaged and malicious GGUF files: each must end in a GgufError that names the file and the fault.

Every file is opened in a forked child, so a crash, an abort or a hang is a failed test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import gguf_builder as build
import numpy as np
import pytest
from gguf_builder import ValueType as V
from isolation import Isolation

from apex_native._native import core
from apex_native.errors import GgufError
from apex_native.gguf import open_gguf

ARCHITECTURE = build.pair("general.architecture", V.STRING, "llama")
ROW_BYTES = 64 * 4
WEIGHT_ROW = build.tensor_row("t.weight", (64, 4), build.F32, 0)
DATA = np.arange(256, dtype="<f4").tobytes()


def with_pair(pair: bytes) -> bytes:
    """A sound file, but for one key-value pair."""
    return build.file_bytes([ARCHITECTURE, pair], [WEIGHT_ROW], DATA)


def with_row(row: bytes, data: bytes = DATA) -> bytes:
    """A sound file, but for one row of the tensor table."""
    return build.file_bytes([ARCHITECTURE], [row], data)


def with_ne(*ne: int) -> bytes:
    return with_row(build.tensor_row("t.weight", ne, build.F32, 0))


def with_type(type: int, ne0: int = 256) -> bytes:
    return with_row(build.tensor_row("t.weight", (ne0,), type, 0))


def with_offset(offset: int) -> bytes:
    return with_row(build.tensor_row("t.weight", (64, 4), build.F32, offset))


def with_name(name: str | bytes) -> bytes:
    return with_row(build.tensor_row(name, (64, 4), build.F32, 0))


def with_two(second_name: str, second_offset: int) -> bytes:
    rows = [WEIGHT_ROW, build.tensor_row(second_name, (64, 4), build.F32, second_offset)]
    return build.file_bytes([ARCHITECTURE], rows, DATA * 2)


def with_alignment(pair: bytes) -> bytes:
    return build.file_bytes([ARCHITECTURE, pair], [WEIGHT_ROW], DATA)


def alignment(value: int) -> bytes:
    return with_alignment(build.pair("general.alignment", V.U32, value))


def whole(**lies: int | bytes) -> bytes:
    """A sound file, but for its first fields."""
    return build.file_bytes([ARCHITECTURE], [WEIGHT_ROW], DATA, **lies)  # type: ignore[arg-type]


SOUND = whole()
BIG_ENDIAN = b"GGUF" + (3).to_bytes(4, "big") + (0).to_bytes(16, "big")
U8 = build.u32(V.U8)
ENOUGH = bytes(64)

HOSTILE: dict[str, tuple[bytes, str]] = {
    # the first fields
    "empty file": (b"", "empty"),
    "one byte": (b"G", "magic"),
    "wrong magic": (whole(magic=b"GGML"), "expected a GGUF file"),
    "safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"t":{"dtype":"F32"}}' * 4, "expected a GGUF file"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "expected a GGUF file"),
    "version 0": (whole(version=0), "version 0"),
    "version 1": (whole(version=1), "version 1"),
    "version 4": (whole(version=4), "version 4"),
    "version 2^32-1": (whole(version=2**32 - 1), "version 4294967295"),
    "big endian": (BIG_ENDIAN, "big-endian"),
    "one key too many": (whole(n_pairs=2), "damaged"),
    "one key too few": (whole(n_pairs=0), "damaged"),
    "2^32 keys": (whole(n_pairs=2**32), "4294967296 keys"),
    "2^63 keys": (whole(n_pairs=2**63), "9223372036854775808 keys"),
    "2^64-1 keys": (whole(n_pairs=2**64 - 1), "18446744073709551615 keys"),
    "one tensor too many": (whole(n_tensors=2), "a tensor name"),
    "2^32 tensors": (whole(n_tensors=2**32), "4294967296 tensors"),
    "2^63 tensors": (whole(n_tensors=2**63), "9223372036854775808 tensors"),
    "2^64-1 tensors": (whole(n_tensors=2**64 - 1), "18446744073709551615 tensors"),
    # keys
    "empty key": (with_pair(build.pair("", V.U8, 1)), "a key is empty"),
    "key of 65536": (with_pair(build.pair("k" * 65536, V.U8, 1)), "65536 bytes long"),
    "key of 2^63": (with_pair(build.u64(2**63) + b"k" + U8 + b"\1"), "9223372036854775808"),
    "key beyond the file": (with_pair(build.u64(60000) + b"k" + U8 + b"\1"), "a key needs 60000"),
    "key not UTF-8": (with_pair(build.pair(b"k\xff", V.U8, 1)), "not valid UTF-8"),
    "key twice": (with_pair(ARCHITECTURE), "'general.architecture' occurs twice"),
    # values
    "value type 13": (with_pair(build.raw_pair("k", 13, ENOUGH)), "value type 13"),
    "value type 2^32-1": (with_pair(build.raw_pair("k", 2**32 - 1, ENOUGH)), "type 4294967295"),
    "bool 2": (with_pair(build.raw_pair("k", V.BOOL, b"\2")), "a bool holds 2"),
    "bool 2 in an array": (
        with_pair(build.raw_array("k", V.BOOL, 3, b"\0\1\2")),
        "a bool holds 2",
    ),
    "string beyond the file": (
        with_pair(build.raw_pair("k", V.STRING, build.u64(10**6))),
        "needs 1000000 bytes",
    ),
    "string of 2^63": (with_pair(build.raw_pair("k", V.STRING, build.u64(2**63))), "the limit is"),
    "string of 2^64-1": (
        with_pair(build.raw_pair("k", V.STRING, build.u64(2**64 - 1))),
        "18446744073709551615 bytes long",
    ),
    "array of arrays": (
        with_pair(build.raw_array("k", V.ARRAY, 1, U8 + build.u64(1) + b"\1")),
        "array of arrays",
    ),
    "array of type 13": (with_pair(build.raw_array("k", 13, 1, ENOUGH)), "value type 13"),
    "array beyond the file": (
        with_pair(build.raw_array("k", V.U32, 10**6, ENOUGH)),
        "announces 1000000 values",
    ),
    "array of 2^61 u64": (
        with_pair(build.raw_array("k", V.U64, 2**61, ENOUGH)),
        "announces 2305843009213693952",
    ),
    "array of 2^64-1 u8": (
        with_pair(build.raw_array("k", V.U8, 2**64 - 1, ENOUGH)),
        "announces 18446744073709551615",
    ),
    "array of 2^62 strings": (
        with_pair(build.raw_array("k", V.STRING, 2**62, ENOUGH)),
        "announces 4611686018427387904",
    ),
    "short array with a string beyond the file": (
        with_pair(build.raw_array("k", V.STRING, 1, build.u64(10**9))),
        "needs 1000000000",
    ),
    "long array with a string beyond the file": (
        with_pair(build.raw_array("k", V.STRING, 5000, build.u64(0) * 4999 + build.u64(2**64 - 9))),
        "needs 18446744073709551607",
    ),
    # general.alignment
    "alignment 0": (alignment(0), "general.alignment is 0"),
    "alignment 3": (alignment(3), "general.alignment is 3"),
    "alignment 4": (alignment(4), "general.alignment is 4"),
    "alignment 48": (alignment(48), "general.alignment is 48"),
    "alignment 2^31": (alignment(2**31), "general.alignment is 2147483648"),
    "alignment 2^32-1": (alignment(2**32 - 1), "general.alignment is 4294967295"),
    "alignment as u64": (
        with_alignment(build.pair("general.alignment", V.U64, 32)),
        "single u32",
    ),
    "alignment as i32": (
        with_alignment(build.pair("general.alignment", V.I32, -32)),
        "single u32",
    ),
    "alignment as f32": (
        with_alignment(build.pair("general.alignment", V.F32, 32.0)),
        "single u32",
    ),
    "alignment as string": (
        with_alignment(build.pair("general.alignment", V.STRING, "32")),
        "single u32",
    ),
    "alignment as array": (
        with_alignment(build.pair("general.alignment", V.U32, [32])),
        "single u32",
    ),
    "alignment as empty array": (
        with_alignment(build.pair("general.alignment", V.U32, [])),
        "single u32",
    ),
    # tensor names
    "empty name": (with_name(""), "a tensor name is empty"),
    "name of 64": (with_name("n" * 64), "64 bytes long"),
    "name of 10^6": (with_name("n" * 10**6), "1000000 bytes long"),
    "name of 2^64-1": (with_row(build.u64(2**64 - 1) + ENOUGH), "18446744073709551615"),
    "zero byte in a name": (with_name("t\0.weight"), "zero byte"),
    "name not UTF-8": (with_name(b"\xff.weight"), "not valid UTF-8"),
    "name with an overlong slash": (with_name(b"\xc0\xaf.weight"), "not valid UTF-8"),
    "name with a surrogate": (with_name(b"\xed\xa0\x80.weight"), "not valid UTF-8"),
    "name cut in a character": (with_name("größe".encode()[:3]), "not valid UTF-8"),
    "name twice": (with_two("t.weight", 1024), "'t.weight' occurs twice"),
    # dimensions
    "no dimensions": (with_ne(), "0 dimensions"),
    "5 dimensions": (with_ne(64, 1, 1, 1, 4), "5 dimensions"),
    "2^32-1 dimensions": (
        with_row(build.tensor_row("t.weight", (64, 4), build.F32, 0, n_dims=2**32 - 1)),
        "4294967295 dimensions",
    ),
    "dimension 0": (with_ne(64, 0), "dimension 0"),
    "row of 0": (with_ne(0, 4), "dimension 0"),
    "dimension -1": (with_ne(64, -1), "dimension -1"),
    "dimension -2^63": (with_ne(64, -(2**63)), "dimension -9223372036854775808"),
    "dimension 2^63-1": (with_ne(64, 2**63 - 1), "more than 2^60 elements"),
    "2^32 times 2^32": (with_ne(2**32, 2**32), "more than 2^60 elements"),
    "product wraps to 4": (with_ne(2**31, 2**31, 2**2, 2**62 + 1), "more than 2^60 elements"),
    "product wraps to 0": (with_ne(2**16, 2**16, 2**16, 2**16), "more than 2^60 elements"),
    "2^59 elements": (with_ne(2**59), "truncated"),
    # types
    **{
        f"removed type {number}": (with_type(number), f"type number {number}")
        for number in (4, 5, 31, 32, 33, 36, 37, 38)
    },
    "type 2^31": (with_type(2**31), "type number 2147483648"),
    "type 2^32-1": (with_type(2**32 - 1), "type number 4294967295"),
    "type 1000": (with_type(1000), "type number 1000"),
    "row of 48 in Q8_0": (with_type(build.Q8_0, 48), "not a multiple of the block of 32"),
    "row of 128 in Q4_K": (with_type(build.Q4_K, 128), "not a multiple of the block of 256"),
    # offsets and data
    "offset 1": (with_offset(1), "not a multiple of the alignment 32"),
    "offset at the end": (with_offset(1024), "truncated"),
    "offset beyond the end": (with_offset(2**40), "truncated"),
    "offset 2^63": (with_offset(2**63), "beyond any file"),
    "offset 2^64-32": (with_offset(2**64 - 32), "beyond any file"),
    "tensors overlap": (with_two("u.weight", ROW_BYTES), "overlap"),
    "tensors at one place": (with_two("u.weight", 0), "overlap"),
    "last byte missing": (SOUND[:-1], "truncated"),
    "one byte of data": (SOUND[: -len(DATA) + 1], "truncated"),
}


def parse(path: str) -> int:
    """Open a file and touch everything that comes out of it."""
    with open_gguf(path) as file:
        file.fingerprint()
        if file.facts.has_data:
            return sum(int(file.tensor_bytes(tensor.name).sum()) for tensor in file.tensors)
        return -1


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
    n_types = core().n_types
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
            assert path in str(error), error
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
    tasks = [(0, build.Q8_0, descriptor, 0, None)]
    job = core().QuantizeJob(file.native, tasks, n_threads=2, max_memory=2**28)
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


# --- fuzzing ------------------------------------------------------------------------------------


def fuzz_seed_file() -> bytes:
    """Small, so that a random byte hits structure; all kinds of values and three tensors."""
    pairs = [
        ARCHITECTURE,
        build.pair("general.alignment", V.U32, 32),
        build.pair("a.u16", V.U16, 3),
        build.pair("a.f32", V.F32, 0.5),
        build.pair("a.bools", V.BOOL, [True, False]),
        build.pair("a.words", V.STRING, ["ab", "", "c"]),
        build.pair("split.count", V.U16, 1),
    ]
    tensors = [
        build.f32_tensor("a.weight", np.ones((2, 32))),
        build.f16_tensor("b.weight", np.ones((2, 2, 32))),
        build.quantized_tensor("c.weight", build.Q8_0, (2, 64), bytes(range(136))),
    ]
    return build.model_bytes(pairs, tensors)


def mutate(source: bytes, header_bytes: int, random_source: random.Random) -> bytes:
    """One to four edits of the header: a byte, a bit, an extreme number, a cut, a repeated piece."""
    content = bytearray(source)
    for _ in range(random_source.randint(1, 4)):
        at = random_source.randrange(min(header_bytes, len(content)))
        kind = random_source.randrange(6)
        if kind == 0:
            content[at] = random_source.randrange(256)
        elif kind == 1:
            content[at] ^= 1 << random_source.randrange(8)
        elif kind == 2:
            extreme = random_source.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**64 - 32])
            content[at : at + 8] = extreme.to_bytes(8, "little")
        elif kind == 3:
            del content[at : at + random_source.randint(1, 16)]
        elif kind == 4:
            piece = content[at : at + random_source.randint(1, 32)]
            content[at:at] = piece
        else:
            del content[max(25, random_source.randrange(len(content))) :]
    return bytes(content)


def fuzz(path: str, seed: int, n_mutations: int) -> dict[str, int]:
    """Counts of (accepted, refused); any other exception goes up with the seed file's bytes."""
    source = fuzz_seed_file()
    header_bytes = len(source) - 256 - 256 - 160
    counts = {"accepted": 0, "refused": 0}
    random_source = random.Random(seed)
    for number in range(n_mutations):
        content = mutate(source, header_bytes, random_source)
        Path(path).write_bytes(content)
        try:
            parse(path)
            counts["accepted"] += 1
        except GgufError as error:
            assert path in str(error)
            counts["refused"] += 1
        except BaseException as error:
            error.add_note(f"mutation {number}: {content.hex()}")
            raise
    return counts


FUZZ_RUNS = [
    pytest.param(1, 2000, id="2000 mutations"),
    pytest.param(2, 30000, id="30000 mutations", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("seed", "n_mutations"), FUZZ_RUNS)
def test_mutated_files_are_read_or_refused(
    isolation: Isolation, tmp_path: Path, seed: int, n_mutations: int
) -> None:
    outcome = isolation.run(fuzz, str(tmp_path / "fuzz.gguf"), seed, n_mutations)
    assert outcome.error == (), outcome.message
    # Both ways are really taken: the mutations are neither harmless nor all fatal at the first byte.
    assert outcome.value["accepted"] > n_mutations // 50
    assert outcome.value["refused"] > n_mutations // 4
