"""Weights from several places: stacked experts and permuted rows are quantized like one GGUF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_native as apex
from apex_native.errors import GgufError, OutputError
from apex_native.gguf import GgufFile
from apex_native.types import GgmlType, GgufFacts, TensorInfo
from apex_native.weights import RowFiles, RowRange, WeightSource, read_rows
from quantize_models import write_model


class Checkpoint:
    """A model taken apart: each expert in a file of its own, other rows in another order."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._file = GgufFile(model)
        self._folder = folder
        self._ranges: dict[str, list[RowRange]] = {}
        for tensor in self._file.tensors:
            data = self._file.tensor_bytes(tensor.name)
            if tensor.n_expert_slices > 1:
                self._ranges[tensor.name] = self._stacked(tensor, data)
            else:
                self._ranges[tensor.name] = self._permuted(tensor, data)
        self._rows = RowFiles()

    def _stacked(self, tensor: TensorInfo, data: Any) -> list[RowRange]:
        slices = data.reshape(tensor.n_expert_slices, -1)
        ranges = []
        for i, part in enumerate(slices):
            path = self._folder / f"expert{i}.{tensor.name}"
            path.write_bytes(b"head" * (1 + i) + part.tobytes())
            n_rows = tensor.shape[-2]
            ranges.append(RowRange(path, 4 * (1 + i), n_rows))
        return ranges

    def _permuted(self, tensor: TensorInfo, data: Any) -> list[RowRange]:
        n_rows = tensor.n_elements // tensor.n_per_row
        order = np.random.default_rng(n_rows).permutation(n_rows).astype(np.int32)
        path = self._folder / tensor.name
        path.write_bytes(data.reshape(n_rows, -1)[np.argsort(order)].tobytes())
        return [RowRange(path, 0, n_rows, order)]

    @property
    def facts(self) -> GgufFacts:
        return self._file.facts

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        return tuple({r.path: None for ranges in self._ranges.values() for r in ranges})

    @property
    def missing_data(self) -> str | None:
        return None

    def encoded_pair(self, key: str) -> bytes:
        return self._file.encoded_pair(key)

    def fingerprint(self) -> str:
        return "taken apart"

    def stored_tensor(self, name: str) -> Any:
        info = next(tensor for tensor in self._file.tensors if tensor.name == name)
        return self._rows.tensor(info, self._ranges[name])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_model(tmp_path / "whole.gguf")


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "parts"
    folder.mkdir()
    return Checkpoint(whole, folder)


@pytest.mark.parametrize("ftype", ["Q4_K_M", "Q8_0"])
def test_parts_give_the_bytes_of_the_whole(
    whole: Path, parts: Checkpoint, tmp_path: Path, ftype: str
) -> None:
    source: WeightSource = parts
    with apex.open_gguf(whole) as file:
        plan = apex.make_plan(file, ftype=ftype)
        apex.quantize(file, plan, tmp_path / "of-whole.gguf")
    assert apex.make_plan(source, ftype=ftype) == plan
    assert apex.classify(source) == apex.classify(source.facts)
    for n_threads in (1, 3):
        manifest = apex.quantize(
            source, plan, tmp_path / "of-parts.gguf", n_threads=n_threads, force=True
        )
        assert (tmp_path / "of-parts.gguf").read_bytes() == (
            tmp_path / "of-whole.gguf"
        ).read_bytes()
    assert manifest.source_fingerprint == "taken apart"


def test_rows_on_demand_are_the_tensors(whole: Path, parts: Checkpoint) -> None:
    with apex.open_gguf(whole) as file:
        for tensor in file.tensors:
            n_rows = tensor.n_elements // tensor.n_per_row
            expected = file.tensor_bytes(tensor.name).reshape(n_rows, -1)
            for source in (file, parts):
                assert np.array_equal(read_rows(source, tensor.name, 0, n_rows), expected)
                middle = read_rows(source, tensor.name, n_rows // 3, n_rows // 2)
                assert np.array_equal(middle, expected[n_rows // 3 :][: n_rows // 2])


def test_a_part_is_no_place_for_the_output(parts: Checkpoint) -> None:
    plan = apex.make_plan(parts, ftype="Q8_0")
    with pytest.raises(OutputError, match="is the input itself"):
        apex.quantize(parts, plan, parts.shard_paths[0], force=True)


# --- what cannot be -----------------------------------------------------------------------------

INFO = TensorInfo("t", (2, 4, 32), GgmlType.F16, 2 * 4 * 32 * 2)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    path.write_bytes(bytes(8 * 64))
    return path


@pytest.mark.parametrize(
    ("ranges", "error", "message"),
    [
        ([(0, 4, None)], ValueError, "has 8 rows, its ranges have 4"),
        ([(0, 8, None), (0, 8, None)], ValueError, "its ranges have 16"),
        ([(1, 8, None)], GgufError, "wants 8 rows of 64 bytes from byte 1, the file has 512"),
        ([(10**12, 8, None)], GgufError, "from byte 1000000000000"),
        ([(0, 8, [0, 1, 2, 3, 4, 5, 6, 8])], GgufError, "wants 9 rows"),
        ([(0, 8, [0, 1, 2, 3, 4, 5, 6, -1])], ValueError, "no row -1"),
        ([(0, 8, [0, 1])], ValueError, "an order of 2 rows for a range of 8"),
        ([(0, 9, None), (0, -1, None)], GgufError, "wants"),
    ],
)
def test_ranges_that_are_not_the_tensor_are_refused(
    rows: Path, ranges: list[Any], error: type[Exception], message: str
) -> None:
    made = [
        RowRange(rows, offset, n, None if order is None else np.array(order, np.int32))
        for offset, n, order in ranges
    ]
    with pytest.raises(error, match=message):
        RowFiles().tensor(INFO, made)


@pytest.mark.parametrize(
    ("shape", "message"), [((0, 32), "dimension 0 is 0"), ((2**40, 2**40), "dimension 1")]
)
def test_shapes_that_are_none_are_refused(rows: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowFiles().tensor(replace(INFO, shape=shape), [RowRange(rows, 0, 8)])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="nowhere"):
        RowFiles().tensor(INFO, [RowRange(tmp_path / "nowhere", 0, 8)])


def test_rows_beyond_the_tensor(rows: Path) -> None:
    tensor = RowFiles().tensor(INFO, [RowRange(rows, 0, 8)])
    assert tensor.read_rows(8, 0).size == 0
    for first, n_rows in ((8, 1), (-1, 1), (0, 9), (2**62, 2**62)):
        with pytest.raises(ValueError, match="has 8 rows"):
            tensor.read_rows(first, n_rows)
