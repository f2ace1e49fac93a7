"""Tensor data of GGUF files: views without a copy, and weights as floats."""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import gguf_builder as build
from apex_native._native import core
from apex_native.errors import GgufError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.types import GgmlType


def model(tmp_path: Path, *tensors: build.Tensor) -> GgufFile:
    return open_gguf(build.write_gguf(tmp_path / "model.gguf", tensors))


def address(array: npt.NDArray[np.uint8]) -> int:
    return array.__array_interface__["data"][0]


def test_tensor_bytes_is_a_view_of_the_mapped_file(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = tuple(build.f32_tensor(f"t{i}", rng.standard_normal((3, 40))) for i in range(3))
    file = model(tmp_path, *tensors)
    memory = np.memmap(file.path, np.uint8, "r")
    views = [file.tensor_bytes(tensor.name) for tensor in tensors]
    data_begin = memory.size - sum(-(-len(tensor.data) // 32) * 32 for tensor in tensors)
    for tensor, info, view in zip(tensors, file.tensors, views, strict=True):
        begin = data_begin + info.offset
        np.testing.assert_array_equal(view, memory[begin : begin + info.nbytes])
        assert view.tobytes() == tensor.data
        # one mapping, no copies: addresses differ as the offsets do
        assert address(view) - address(views[0]) == info.offset - file.tensors[0].offset
    assert address(file.tensor_bytes("t0")) == address(views[0])


def test_tensor_bytes_cannot_be_written(tmp_path: Path) -> None:
    view = model(tmp_path, build.f32_tensor("t", [1.0])).tensor_bytes("t")
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError):
        view.setflags(write=True)


@pytest.mark.parametrize("end", ["close", "delete"])
def test_view_outlives_the_file(tmp_path: Path, rng: np.random.Generator, end: str) -> None:
    weights = rng.standard_normal((64, 1024)).astype(np.float32)
    file = model(tmp_path, build.f32_tensor("t", weights))
    view = file.tensor_bytes("t")
    if end == "close":
        file.close()
    file.path.unlink()
    del file
    gc.collect()
    np.testing.assert_array_equal(view.view("<f4").reshape(weights.shape), weights)


def test_file_is_let_go_with_its_last_view(tmp_path: Path) -> None:
    file = model(tmp_path, build.f32_tensor("t", [1.0]))
    mapping = weakref.ref(file.native)
    part = file.tensor_bytes("t")[2:]
    file.close()
    gc.collect()
    assert mapping() is not None
    del part
    gc.collect()
    assert mapping() is None


def test_closed_file(tmp_path: Path) -> None:
    with model(tmp_path, build.f32_tensor("t", [1.0])) as file:
        assert "1 tensors" in repr(file)
    for read in (
        lambda: file.tensor_bytes("t"),
        lambda: file.to_float32("t"),
        lambda: file.encoded_pair("k"),
        lambda: file.shard_paths,
        file.fingerprint,
        lambda: file.statistics(["t"]),
    ):
        with pytest.raises(GgufError, match=r"model\.gguf: the file was closed"):
            read()
    assert file.tensors[0].name == "t"  # facts stay


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q6_K", "Q2_K", "IQ4_XS", "IQ2_XXS", "MXFP4"])
def test_dequantized_as_the_gguf_package_does(tmp_path: Path, type: str) -> None:
    kind = GgmlType[type]
    weights = np.random.default_rng(5).standard_normal((2, 3, 512)).astype(np.float32)
    ones = np.ones(512, np.float32)
    stored = core.quantize_rows(weights.reshape(6, 512), kind.id, ones)
    tensor = build.quantized_tensor("t", kind.id, weights.shape, stored.tobytes())
    found = model(tmp_path, tensor).to_float32("t")
    expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[type]).reshape(weights.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [build.f32_tensor, build.f16_tensor, build.bf16_tensor])
def test_floats_as_the_gguf_package_does(
    tmp_path: Path, rng: np.random.Generator, make: Callable[..., build.Tensor]
) -> None:
    tensor = make("t", rng.standard_normal((2, 3, 64)))
    found = model(tmp_path, tensor).to_float32("t")
    stored = np.frombuffer(tensor.data, np.uint8)
    if tensor.type == build.BF16:
        expected = gguf.dequantize(stored, gguf.GGMLQuantizationType.BF16)
    else:
        expected = stored.view("<f4" if tensor.type == build.F32 else "<f2")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32).reshape(tensor.shape))


def test_integers_are_not_weights(tmp_path: Path) -> None:
    tensor = build.Tensor("ids", (4,), build.I32, struct.pack("<4i", 1, 2, 3, 4))
    file = model(tmp_path, tensor)
    assert file.tensors[0].type is GgmlType.I32
    assert file.tensor_bytes("ids").tobytes() == tensor.data
    with pytest.raises(ValueError, match="i32 holds no weights"):
        file.to_float32("ids")
    with pytest.raises(ValueError, match="'ids' has type i32, which holds no weights"):
        file.statistics(["ids"])
