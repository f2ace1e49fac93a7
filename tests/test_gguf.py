"""Reading GGUF files: metadata, tensor table, shards, fingerprint."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguf_builder as build
from apex_native.errors import GgufError
from apex_native.gguf import GgufFile, open_gguf
from gguf_builder import ValueType as V

SCALARS: dict[V, tuple[object, ...]] = {
    V.U8: (0, 255),
    V.I8: (-128, 127),
    V.U16: (0, 2**16 - 1),
    V.I16: (-(2**15), 2**15 - 1),
    V.U32: (0, 2**32 - 1),
    V.I32: (-(2**31), 2**31 - 1),
    V.U64: (0, 2**64 - 1),
    V.I64: (-(2**63), 2**63 - 1),
    V.F32: (0.5, -(2.0**-149), 2.0**127),
    V.F64: (0.1, -5e-324, 1.7e308),
    V.BOOL: (True, False),
    V.STRING: ("", "größe", "line\nbreak", "zero\0byte"),
}
"""The extremes of every type; exact in it, so that equality is the right comparison."""


def model(tmp_path: Path, *pairs: bytes, tensors: tuple[build.Tensor, ...] = ()) -> GgufFile:
    return open_gguf(build.write_gguf(tmp_path / "model.gguf", tensors, pairs))


# --- metadata -----------------------------------------------------------------------------------


@pytest.mark.parametrize("type", SCALARS, ids=lambda kind: kind.name)
def test_scalars_of_every_type(tmp_path: Path, type: V) -> None:
    pairs = [build.pair(f"k{i}", type, value) for i, value in enumerate(SCALARS[type])]
    found = model(tmp_path, *pairs).metadata
    assert tuple(found.values()) == SCALARS[type]
    assert {v.__class__ for v in found.values()} == {v.__class__ for v in SCALARS[type]}


@pytest.mark.parametrize("type", SCALARS, ids=lambda kind: kind.name)
def test_arrays_of_every_type(tmp_path: Path, type: V) -> None:
    file = model(tmp_path, build.pair("k", type, list(SCALARS[type])), build.pair("e", type, []))
    assert file.metadata == {"k": SCALARS[type], "e": ()}


def test_special_floats(tmp_path: Path) -> None:
    found = model(tmp_path, build.pair("k", V.F32, [np.nan, np.inf, -np.inf])).metadata["k"]
    np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("type", [V.U8, V.F64, V.STRING, V.BOOL], ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [4096, 4097, 150_000])
def test_long_arrays_are_skipped_but_sized(tmp_path: Path, type: V, n: int) -> None:
    value = {V.U8: 7, V.F64: 0.25, V.STRING: "token", V.BOOL: True}[type]
    pairs = [build.pair("long", type, [value] * n), build.pair("after", V.U8, 1)]
    file = model(tmp_path, *pairs)
    assert file.metadata == ({"long": (value,) * n} if n <= 4096 else {}) | {"after": 1}
    assert file.facts.kv_sizes == {"long": len(pairs[0]), "after": len(pairs[1])}
    assert file.encoded_pair("long") == pairs[0]


def test_pairs_keep_their_order_and_bytes(tmp_path: Path) -> None:
    pairs = {
        f"key.{type.name}": build.pair(f"key.{type.name}", type, list(values))
        for type, values in SCALARS.items()
    }
    file = model(tmp_path, *pairs.values())
    assert list(file.facts.kv_sizes) == list(pairs)
    assert {key: file.encoded_pair(key) for key in pairs} == pairs
    assert {key: len(pair) for key, pair in pairs.items()} == file.facts.kv_sizes


def test_bytes_that_are_not_text_survive(tmp_path: Path) -> None:
    # Byte-level vocabularies hold such strings; surrogateescape brings them back unchanged.
    tokens = [b"\xff\xfe", b"\x00", b"ok"]
    pair = build.pair("tokens", V.STRING, tokens)
    file = model(tmp_path, pair)
    found = file.metadata["tokens"]
    assert [text.encode("utf-8", "surrogateescape") for text in found] == tokens
    assert file.encoded_pair("tokens") == pair


def test_keys_and_names_in_unicode(tmp_path: Path) -> None:
    names = ["schlüssel", "键", "🔑"]
    tensors = tuple(build.f32_tensor(name, [1.0]) for name in names)
    file = model(tmp_path, *(build.pair(name, V.U8, 1) for name in names), tensors=tensors)
    assert list(file.metadata) == names
    assert [tensor.name for tensor in file.tensors] == names
    assert file.encoded_pair("🔑") == build.pair("🔑", V.U8, 1)
    assert len(file.fingerprint()) == 64


def test_longest_names(tmp_path: Path) -> None:
    key, name = "k" * 65535, "n" * 63
    file = model(tmp_path, build.pair(key, V.U8, 1), tensors=(build.f32_tensor(name, [1.0]),))
    assert list(file.metadata) == [key]
    assert file.tensors[0].name == name


def test_absent_key(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"no\.such\.key"):
        model(tmp_path).encoded_pair("no.such.key")


def test_metadata_and_sizes_cannot_be_changed(tmp_path: Path) -> None:
    file = model(tmp_path, build.pair("k", V.U8, 1))
    with pytest.raises(TypeError):
        file.metadata["k"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        file.facts.kv_sizes["k"] = 2  # type: ignore[index]


@pytest.mark.parametrize("version", [2, 3])
def test_versions(tmp_path: Path, version: int) -> None:
    path = tmp_path / "model.gguf"
    tensors = [build.f32_tensor("t", [1.0, 2.0])]
    path.write_bytes(build.model_bytes([build.pair("k", V.U8, 1)], tensors, version=version))
    file = open_gguf(path)
    assert file.metadata == {"k": 1}
    assert file.native.version == version
    np.testing.assert_array_equal(file.to_float32("t"), [1.0, 2.0])


def test_architecture(tmp_path: Path) -> None:
    assert model(tmp_path).facts.architecture == ""
    pair = build.pair("general.architecture", V.STRING, "qwen35moe")
    assert model(tmp_path, pair).facts.architecture == "qwen35moe"


# --- tensor table -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 32), (4, 3, 32), (2, 4, 3, 32), (1, 1, 3, 32)])
def test_shapes_are_row_major(
    tmp_path: Path, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    weights = rng.standard_normal(shape).astype(np.float32)
    file = model(tmp_path, tensors=(build.f32_tensor("t", weights),))
    info = file.tensors[0]
    assert info.shape == shape
    assert info.nbytes == weights.nbytes
    assert info.n_per_row == shape[-1]
    np.testing.assert_array_equal(file.to_float32("t"), weights)


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096, 2**20])
def test_alignments(tmp_path: Path, alignment: int) -> None:
    tensors = [build.f32_tensor(f"t{i}", np.full(5, i)) for i in range(3)]
    path = build.write_gguf(tmp_path / "model.gguf", tensors, alignment=alignment)
    file = open_gguf(path)
    assert file.facts.alignment == alignment
    assert [tensor.offset % alignment for tensor in file.tensors] == [0, 0, 0]
    for i in range(3):
        np.testing.assert_array_equal(file.to_float32(f"t{i}"), np.full(5, i))


def test_gaps_and_any_order_of_data(tmp_path: Path) -> None:
    first, second = np.full(8, 1, "<f4"), np.full(8, 2, "<f4")
    rows = [
        build.tensor_row("second", (8,), build.F32, 128),
        build.tensor_row("first", (8,), build.F32, 0),
    ]
    data = first.tobytes() + bytes(96) + second.tobytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(build.file_bytes([], rows, data))
    file = open_gguf(path)
    assert [tensor.name for tensor in file.tensors] == ["second", "first"]
    np.testing.assert_array_equal(file.to_float32("first"), first)
    np.testing.assert_array_equal(file.to_float32("second"), second)


def test_file_without_tensors(tmp_path: Path) -> None:
    file = model(tmp_path, build.pair("k", V.U8, 1))
    assert file.tensors == ()
    assert file.facts.has_data


def test_index(tmp_path: Path) -> None:
    file = model(tmp_path, tensors=(build.f32_tensor("a", [1.0]), build.f32_tensor("b", [2.0])))
    assert [file.index("a"), file.index("b")] == [0, 1]
    with pytest.raises(KeyError):
        file.index("c")
    with pytest.raises(KeyError):
        file.tensor_bytes("c")


def test_header_without_data(tmp_path: Path) -> None:
    path = tmp_path / "header.gguf"
    tensors = [build.f32_tensor("t.weight", np.ones((4, 64)))]
    path.write_bytes(build.model_bytes([build.pair("k", V.U8, 1)], tensors, with_data=False))
    file = open_gguf(path)
    assert not file.facts.has_data
    assert file.metadata == {"k": 1}
    assert file.tensors[0].shape == (4, 64)
    for read in (
        lambda: file.tensor_bytes("t.weight"),
        lambda: file.to_float32("t.weight"),
        lambda: file.statistics(["t.weight"]),
        lambda: file.stored_tensor("t.weight"),
    ):
        with pytest.raises(GgufError, match=r"header.gguf: tensor 't.weight' has no data"):
            read()


# --- shards -------------------------------------------------------------------------------------


def shards(tmp_path: Path) -> list[Path]:
    groups = [
        [build.f32_tensor("a", np.full(8, 1)), build.f32_tensor("b", np.full(8, 2))],
        [build.f32_tensor("c", np.full(40, 3))],
        [build.f32_tensor("d", np.full(8, 4))],
    ]
    return build.write_shards(tmp_path, groups, [build.pair("k", V.U8, 1)])


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_the_whole_model(tmp_path: Path, opened: int) -> None:
    paths = shards(tmp_path)
    file = open_gguf(paths[opened])
    assert file.shard_paths == tuple(paths)
    assert [(t.name, t.shard, t.offset) for t in file.tensors] == [
        ("a", 0, 0),
        ("b", 0, 32),
        ("c", 1, 0),
        ("d", 2, 0),
    ]
    assert file.metadata["k"] == 1
    for name, value in zip("abcd", (1, 2, 3, 4), strict=True):
        assert set(file.to_float32(name)) == {value}


def test_one_shard_alone(tmp_path: Path) -> None:
    file = GgufFile(shards(tmp_path)[1], with_siblings=False)
    assert [tensor.name for tensor in file.tensors] == ["c"]


def test_first_shard_without_tensors(tmp_path: Path) -> None:
    paths = build.write_shards(tmp_path, [[], [build.f32_tensor("a", np.ones(8))]])
    file = open_gguf(paths[0])
    assert file.facts.has_data
    np.testing.assert_array_equal(file.to_float32("a"), np.ones(8))


def test_shard_that_is_only_a_header(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    os.truncate(paths[1], paths[1].stat().st_size - 160)
    file = open_gguf(paths[0])
    assert not file.facts.has_data
    assert set(file.to_float32("d")) == {4}
    with pytest.raises(GgufError, match=r"model-00002-of-00003\.gguf: tensor 'c' has no data"):
        file.tensor_bytes("c")


# --- fingerprint --------------------------------------------------------------------------------


def test_fingerprint_is_stable(tmp_path: Path) -> None:
    path = shards(tmp_path)[0]
    assert open_gguf(path).fingerprint() == open_gguf(path).fingerprint()


def test_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    tensors = [build.f32_tensor("t", [1.0])]
    renamed = [build.f32_tensor("u", [1.0])]
    path = tmp_path / "model.gguf"
    found = set()
    for pairs, content in [
        ([build.pair("k", V.U8, 1)], tensors),
        ([build.pair("k", V.U8, 2)], tensors),
        ([build.pair("k", V.I8, 2)], tensors),
        ([build.pair("k", V.U8, 1)], renamed),
    ]:
        build.write_gguf(path, content, pairs)
        os.utime(path, ns=(10**18, 10**18))  # so that only the header can make the difference
        found.add(open_gguf(path).fingerprint())
    os.utime(path, ns=(10**18, 10**18 + 10**9))
    found.add(open_gguf(path).fingerprint())
    assert len(found) == 5


# --- the gguf package as a second opinion -------------------------------------------------------


def test_file_of_the_gguf_package(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "model.gguf"
    weights = rng.standard_normal((4, 3, 32)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_token_list([f"token {i}" for i in range(5000)])
    writer.add_array("llama.per_layer", [1, 2, 3])
    writer.add_tensor("a.weight", weights)
    writer.add_tensor("b.weight", weights.astype(np.float16))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    file = open_gguf(path)
    assert file.facts.architecture == "llama"
    assert file.metadata["llama.block_count"] == 7
    assert file.metadata["llama.per_layer"] == (1, 2, 3)
    assert "tokenizer.ggml.tokens" in file.facts.kv_sizes
    np.testing.assert_array_equal(file.to_float32("a.weight"), weights)
    np.testing.assert_array_equal(
        file.to_float32("b.weight"), weights.astype(np.float16).astype(np.float32)
    )


def test_builder_writes_what_the_gguf_package_reads(tmp_path: Path) -> None:
    pairs = [build.pair(f"k.{type.name}", type, values[-1]) for type, values in SCALARS.items()]
    tensors = [build.f32_tensor("t", np.arange(6).reshape(2, 3))]
    path = build.write_gguf(tmp_path / "model.gguf", tensors, pairs, alignment=64)
    reader = gguf.GGUFReader(path)
    for type, values in SCALARS.items():
        assert reader.fields[f"k.{type.name}"].contents() == values[-1]
    np.testing.assert_array_equal(reader.tensors[0].data, np.arange(6).reshape(2, 3))
