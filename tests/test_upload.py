"""Weights that go to a GPU by several threads while llama.cpp loads a model.

What can be tested without a GPU is (tests/cpp/upload_test.cpp: pieces, threads, errors, mappings);
the last tests compare what lies on a GPU with the file's bytes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from cli_tools import run
from cpp_programs import build_program
from test_cuda import gpu_problem
from wide_model import WideModel, write_wide_model

WIDE = WideModel(n_layers=4, n_experts=32, n_vocab=16_384, n_embd=1024, n_ff=256)
"""Experts of 16 MiB in F16; rows that go down are no multiple of 512, so ggml's CUDA backend puts
zeros behind quantized ones."""

SHARED_OUT = 4 << 20
"""Weights of fewer bytes are llama.cpp's (csrc/model/weight_upload.cpp)."""

HAS_GPU = core.build_info()["cuda"] and gpu_problem() is None
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")


@pytest.mark.parametrize("part", ["pieces", "failures", "mappings"])
def test_up_to_the_gpu(part: str) -> None:
    program = build_program("upload_test")
    done = subprocess.run([program, part], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{part}: as they must\n"), done.stderr


def assert_holds_the_file(model: Any, path: Path) -> None:
    names = {name for name, _ in model.weight_bytes()}
    n_compared = 0
    for tensor in GGUFReader(path).tensors:
        if tensor.name not in names:
            continue  # of the multi-token-prediction block
        expected = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        for data in model.weight_data(tensor.name):
            assert np.array_equal(np.frombuffer(data, np.uint8), expected), tensor.name
            n_compared += 1
    assert n_compared >= len(names) > 20


def test_weights_on_the_cpu_are_the_files_and_go_no_detour() -> None:
    path = apex.demo_model()
    for use_mmap in (True, False):
        model = core.Model(str(path), repack=False, use_mmap=use_mmap, n_upload_threads=2)
        assert_holds_the_file(model, Path(path))
        assert model.n_uploaded_bytes == 0
    with pytest.raises(apex.ModelError, match="there is no tensor 'blk"):
        model.weight_data("blk.99.ffn_up.weight")


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """One model in F16 and with quantized experts."""
    folder = tmp_path_factory.mktemp("upload")
    wide, small = folder / "wide.gguf", folder / "small.gguf"
    write_wide_model(wide, WIDE, tokenizer=Path(apex.demo_model()))
    done = run("quantize", wide, "-o", small, "--type", "Q4_K_M")
    assert done.returncode == 0, done.stderr
    yield [wide, small]
    for path in folder.glob("*.gguf"):
        path.unlink()


def load(path: Path, **options: Any) -> Any:
    return core.Model(str(path), n_gpu_layers=-1, **{"n_upload_threads": 3, **options})


def n_shared_out(path: Path) -> int:
    """Bytes of large weights on a GPU; token embeddings stay on the host."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    return sum(n for name, n in sizes.items() if n >= SHARED_OUT and "token_embd" not in name)


@needs_gpu
@pytest.mark.parametrize("n_threads", [1, 3, 16])
def test_weights_on_a_gpu_are_the_files(files: list[Path], n_threads: int) -> None:
    for path in files:
        model = load(path, n_upload_threads=n_threads)
        assert model.n_uploaded_bytes == n_shared_out(path) > 12 * SHARED_OUT
        assert_holds_the_file(model, path)


@needs_gpu
def test_one_gpu_of_several_and_none_mapped(files: list[Path]) -> None:
    for path in files:
        for options in ({"devices": ["CUDA0"]}, {"use_mmap": False}, {"n_upload_threads": 0}):
            model = load(path, **options)
            assert_holds_the_file(model, path)
        assert model.n_uploaded_bytes == 0


@needs_gpu
def test_experts_on_the_host_and_the_rest_on_a_gpu(files: list[Path]) -> None:
    model = load(files[0], n_cpu_moe=2, repack=False)
    assert 0 < model.n_uploaded_bytes < n_shared_out(files[0])
    assert_holds_the_file(model, files[0])


@needs_gpu
def test_models_that_are_loaded_at_once(files: list[Path]) -> None:
    paths = files * 2
    with ThreadPoolExecutor(len(paths)) as pool:
        models = list(pool.map(load, paths))
    for path, model in zip(paths, models, strict=True):
        assert model.n_uploaded_bytes == n_shared_out(path)
        assert_holds_the_file(model, path)


@needs_gpu
def test_a_model_computes_what_it_computes_as_llama_cpp_loads_it(files: list[Path]) -> None:
    """Quantized rows are read to the end of the zeros behind them."""
    found = []
    for n_threads in (0, 3):
        model = load(files[1], n_upload_threads=n_threads)
        tokens = model.tokenize(demo_text(2000, seed=4), add_special=True, parse_special=False)
        settings = {"n_ctx": 64, "n_batch": 64, "n_ubatch": 64, "n_threads": 2}
        sums = core.ImatrixRun(model, **settings, scope="everything")
        sums.add_chunks(np.ascontiguousarray(tokens[:64], np.int32))
        found.append({entry[0]: entry[1] for entry in sums.entries()})
    theirs, ours = found
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        assert np.all(np.isfinite(values)), name
        assert np.array_equal(values, ours[name]), name


@needs_gpu
def test_a_load_that_is_stopped(files: list[Path]) -> None:
    stop = core.StopFlag()
    stop.set()
    with pytest.raises(apex.Cancelled):
        load(files[0], stop=stop)
    assert_holds_the_file(load(files[0]), files[0])
