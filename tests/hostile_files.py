"""Damaged and malicious GGUF files: content, a word that the refusal must contain; mutations."""

from __future__ import annotations

import random

import numpy as np

import gguf_builder as build
from apex_native.gguf import open_gguf
from gguf_builder import ValueType as V

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
    "5 dimensions": (with_ne(64, 1, 1, 1, 4), "5 dimensions"),
    "2^32-1 dimensions": (
        with_row(build.tensor_row("t.weight", (64, 4), build.F32, 0, n_dims=2**32 - 1)),
        "4294967295 dimensions",
    ),
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
    """Open a file and touch everything that comes out of it; -1 for a header without data."""
    with open_gguf(path) as file:
        file.fingerprint()
        if "header only" in (file.missing_data or ""):
            return -1
        return sum(int(file.tensor_bytes(tensor.name).sum()) for tensor in file.tensors)


def fuzz_seed_file() -> tuple[bytes, int]:
    """A sound file to mutate, and the length of its header: every kind of value, three tensors."""
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
    content = build.model_bytes(pairs, tensors)
    return content, len(build.model_bytes(pairs, tensors, with_data=False))


def mutate(source: bytes, header_bytes: int, random_source: random.Random) -> bytes:
    """One to four edits of the header: a byte, a bit, an extreme number, a gap, an echo, a cut."""
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
