"""Scores and importance matrices of models on a GPU, as far as a machine without one can test it.

The GPU's arithmetic is compiled for the CPU, run there in the GPU's order and compared with the
CPU's own, bit for bit. tests/test_cuda.py compiles the kernels; bench/cuda_scoring.py compares them
on a GPU, as the last tests here do where there is one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFWriter

import apex_native as apex
from apex_native import engine
from apex_native._native import core
from apex_native.demo import demo_imatrix, demo_model
from apex_native.demo_text import demo_text
from apex_native.engine import Model, Placement, load_model
from apex_native.imatrix import Importance
from apex_native.types import GgmlType
from cpp_programs import build_program
from test_cuda import gpu_problem

CTX = 128


def run_twin(name: str, *arguments: str) -> list[str]:
    run = subprocess.run([build_program(name), *arguments], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize("seed", ["1", "2"])
def test_scores_are_the_cpus_bits(seed: str) -> None:
    lines = run_twin("twin_vs_softmax", "--rows", "20", "--seed", seed)
    assert [line.split()[0] for line in lines] == [
        "usual", "equal", "flat", "steep", "coded", "nan", "infinite", "minus",
    ]  # fmt: skip
    assert all(line.endswith("differ 0") for line in lines)
    assert all("rows 100 " in line for line in lines)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_sums_of_squares_are_the_cpus_bits(seed: str) -> None:
    lines = run_twin("twin_vs_squares", "--seed", seed)
    assert len(lines) == 8
    assert all(line.endswith("differ 0") for line in lines)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_second_moments_are_the_cpus_bits(seed: str) -> None:
    lines = run_twin("twin_vs_moments", "--seed", seed)
    assert [line.split()[0] for line in lines] == [
        "plain", "wide", "planes", "no", "routed", "slots",
    ]  # fmt: skip
    assert all(line.endswith("trace positive differ 0") for line in lines)


def test_a_build_without_cuda_says_how_to_get_one() -> None:
    if core.build_info()["cuda"]:
        pytest.skip("this build has CUDA")
    with pytest.raises(ValueError, match=r"needs a CUDA build; reinstall with .*APEX_CUDA=ON"):
        core.KernelBench("cuda")


# --- whatever computes: asked to work on the host, a run gives the same ---------------------------


@pytest.fixture(scope="module")
def tokens(model: Model) -> npt.NDArray[np.int32]:
    found = model.tokenize(demo_text(4_000, seed=5), add_special=True, parse_special=False)
    return np.ascontiguousarray(found[: 2 * CTX], np.int32)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """On the GPU where there is one and the build can use it, else on the CPU."""
    on_gpu = core.build_info()["cuda"] and gpu_problem() is None
    with load_model(demo_model(), n_gpu_layers=-1 if on_gpu else 0, n_threads=2) as loaded:
        yield loaded


def scores(model: Model, tokens: npt.NDArray[np.int32], n_parts: int, n_positions: int, *,
           on_host: bool) -> dict[str, npt.NDArray[np.float64]]:  # fmt: skip
    """Of the model against itself with a coarser cache."""
    scorer = core.Scorer(
        reference=model.native,
        candidates=[core.Candidate(model=model.native, type_k=GgmlType.Q8_0.id, n_parts=n_parts)],
        tokens=tokens,
        options=core.LaneOptions(n_ctx=CTX, n_sequences=2, n_positions=n_positions, n_threads=2),
    )  # fmt: skip
    if on_host:
        scorer.score_on_host_only()
    scorer.run()
    found: dict[str, npt.NDArray[np.float64]] = scorer.candidate_scores(0)
    return found


@pytest.mark.parametrize("n_positions", [CTX, CTX // 4], ids=["whole", "first without outputs"])
@pytest.mark.parametrize("n_parts", [1, 3])
def test_scores_do_not_depend_on_where_they_are_made(
    model: Model, tokens: npt.NDArray[np.int32], n_parts: int, n_positions: int
) -> None:
    here, copied = (
        scores(model, tokens, n_parts, n_positions, on_host=flag) for flag in (False, True)
    )
    assert len(here["nll"]) == 2 * (CTX // 2 - 1)
    assert np.all(here["kld"] >= 0)
    assert np.any(here["kld"] > 0)
    for key, values in here.items():
        assert np.array_equal(values, copied[key]), key


def test_sums_do_not_depend_on_where_they_are_made(
    model: Model, tokens: npt.NDArray[np.int32]
) -> None:
    found = []
    for on_host in (False, True):
        run = core.ImatrixRun(model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX, n_threads=2,
                                scope="everything")  # fmt: skip
        if on_host:
            run.sum_on_host_only()
        for begin in range(0, len(tokens), CTX):
            run.add_chunks(np.ascontiguousarray(tokens[begin : begin + CTX]))
            run.entries()  # totals are read, and go on
        found.append({name: (sums, counts) for name, sums, counts, _ in run.entries()})
    here, copied = found
    assert here.keys() == copied.keys()
    assert len(here) > 50
    for name, (sums, counts) in here.items():
        assert np.array_equal(sums, copied[name][0]), name
        assert np.array_equal(counts, copied[name][1]), name


def test_second_moments_do_not_depend_on_where_they_are_made(
    model: Model, tokens: npt.NDArray[np.int32]
) -> None:
    found, floats = [], []
    for on_host in (False, True):
        run = core.ImatrixRun(model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX, n_threads=2,
                                scope="everything", moments=True)  # fmt: skip
        if on_host:
            run.sum_on_host_only()
        for begin in range(0, len(tokens), CTX):
            run.add_chunks(np.ascontiguousarray(tokens[begin : begin + CTX]), in_part=begin > 0)
            # They are read, and go on.
            sums = {name: [values.copy() for values in moment]
                    for name, moment in run.moments().items()}  # fmt: skip
        found.append((sums, run.moment_inputs()))
        taken = {}
        for name, (n_per_row, n_slices) in run.moment_shapes().items():
            total = np.empty((n_slices, n_per_row * (n_per_row + 1) // 2), np.float32)
            part = np.empty_like(total)
            run.take_moment(name, total, part)
            taken[name] = total, part
        floats.append(taken)
    (here, inputs), (copied, same_inputs) = found
    assert inputs == same_inputs
    assert here.keys() == copied.keys() == floats[0].keys()
    assert len(here) > 20
    for name, arrays in here.items():
        for mine, its in zip(arrays, copied[name], strict=True):
            assert np.array_equal(mine, its), name
        of_part, rest = arrays[:2]
        for total, part in (place[name] for place in floats):
            assert np.array_equal(total, (of_part + rest).astype(np.float32)), name
            assert np.array_equal(part, of_part.astype(np.float32)), name


def test_a_restored_sum_goes_on(model: Model, tokens: npt.NDArray[np.int32]) -> None:
    def started() -> object:
        return core.ImatrixRun(model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX, n_threads=2,
                                 scope="everything")  # fmt: skip

    whole, first, second = started(), started(), started()
    parts = [np.ascontiguousarray(tokens[begin : begin + CTX]) for begin in (0, CTX)]
    for part in parts:
        whole.add_chunks(part)  # type: ignore[attr-defined]
    first.add_chunks(parts[0])  # type: ignore[attr-defined]
    for name, sums, counts, of_mtp in first.entries():  # type: ignore[attr-defined]
        second.restore(name, sums, counts, of_mtp)  # type: ignore[attr-defined]
    second.add_chunks(parts[1])  # type: ignore[attr-defined]
    wanted = {name: (sums, counts) for name, sums, counts, _ in whole.entries()}  # type: ignore[attr-defined]
    for name, sums, counts, _ in second.entries():  # type: ignore[attr-defined]
        assert np.array_equal(sums, wanted[name][0]), name
        assert np.array_equal(counts, wanted[name][1]), name


def test_recorded_squares_add_up_to_the_same(model: Model, tokens: npt.NDArray[np.int32]) -> None:
    """Two runs in turn, each chunk in several parts; records are written to again."""

    def started() -> Any:
        return core.ImatrixRun(model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX // 2,
                               n_threads=2, scope="everything")  # fmt: skip

    whole, runs = started(), [started(), started()]
    sums, record = core.RecordedSums(n_threads=2), core.GroupRecord()
    chunks = [np.ascontiguousarray(tokens[begin : begin + CTX]) for begin in (0, CTX, 0)]
    for i, chunk in enumerate(chunks):
        whole.add_chunks(chunk)
        runs[i % 2].record_chunks(chunk, record)
        sums.add(record)
    assert runs[0].entries() == []
    wanted = {name: (sums, counts) for name, sums, counts, _ in whole.entries()}
    found = {name: (sums, counts) for name, sums, counts, _ in sums.entries()}
    assert found.keys() == wanted.keys()
    for name, (values, counts) in found.items():
        assert np.array_equal(values, wanted[name][0]), name
        assert np.array_equal(counts, wanted[name][1]), name
    # Weights that share an input share its squares.
    n_doubles = sum(values.size for values, _ in found.values())
    assert 0 < record.n_bytes < 2 * 8 * n_doubles


# --- candidates made in memory ------------------------------------------------------------------


@pytest.mark.skipif(gpu_problem() is not None, reason=str(gpu_problem()))
@pytest.mark.parametrize("row_step", [1, 3])
def test_values_do_not_depend_on_where_they_are_made(row_step: int) -> None:
    with apex.open_gguf(demo_model()) as source:
        imatrix = apex.load_imatrix(demo_imatrix())
        matrix = Importance(imatrix, source.facts)
        wanted = [
            (i, type.id, matrix.values(tensor.name), None, None)
            for i, tensor in enumerate(source.tensors)
            if tensor.name.startswith("blk.3.") and tensor.n_per_row % 256 == 0
            for type in (GgmlType.Q4_K, GgmlType.IQ2_S, tensor.type)
            if tensor.name in imatrix.entries
        ]
        made = [
            core.quantize_values(
                source.native, wanted, n_threads=3, row_step=row_step, devices=devices
            )
            for devices in ([], [0])
        ]
    assert len(wanted) >= 12
    for cpu, gpu in zip(*made, strict=True):
        assert np.array_equal(cpu.encoded, gpu.encoded), cpu.name
        assert np.array_equal(cpu.errors, gpu.errors), cpu.name


def test_candidates_are_quantized_where_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Placement().quantizing_device == "cpu"
    if gpu_problem() is not None:
        assert Placement(n_gpu_layers=-1).quantizing_device == "cpu"
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    assert Placement(n_gpu_layers="auto").quantizing_device == "cuda:0"
    assert Placement(n_gpu_layers=4, main_gpu=1).quantizing_device == "cuda:1"
    placed = Placement(n_gpu_layers=-1, devices=("CUDA2", "CUDA3"))
    assert placed.quantizing_device == "cuda:2"


# --- memory ---------------------------------------------------------------------------------------


def write_huge_model(path: Path) -> Path:
    """A model of one tensor of a terabyte; the file has a hole in its place."""
    shape = (1 << 18, 1 << 20)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor_info("blk.0.ffn_up.weight", shape, np.dtype(np.float32), 4 << 38)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + (4 << 38) + 64)
    return path


def test_layers_larger_than_the_gpu_are_refused_before_loading(tmp_path: Path) -> None:
    path = write_huge_model(tmp_path / "huge.gguf")
    with pytest.raises(apex.ModelError, match="cannot load"):  # llama.cpp misses its settings
        load_model(path)
    if not core.build_info()["cuda"] or gpu_problem() is not None:
        return
    with pytest.raises(apex.DeviceError, match=r"take 1099511627776 bytes, more than is free"):
        load_model(path, n_gpu_layers=-1)
