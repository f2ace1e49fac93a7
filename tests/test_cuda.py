"""The GPU half of quantization, as far as a machine without a GPU can test it.

The kernels' per-thread algorithms are compiled for the CPU and compared with ggml byte for byte;
the kernels themselves are compiled where nvcc is. bench/cuda.sh compares them on a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo import demo_imatrix, demo_model
from apex_native.quantization import DeviceUse, list_gpus
from apex_native.types import GgmlType
from cpp_programs import ROOT, build_program
from file_compare import differing_tensors
from job_tools import finish, model, start

MATRIX_USE = {GgmlType.from_id(id).name: use for id, use in core.quantized_types().items()}
TYPES = list(MATRIX_USE)
NEEDING_IMATRIX = [name for name, use in MATRIX_USE.items() if use == "required"]

N_KERNELS = 26 + 15 + 2 + 3 + 6 + 8 + 18 + 3 + 5 + 1
"""Quantizers with and without a matrix (three need one, Q8_0 ignores it), error sums, scores, sums
of squares, second moments, bases made of them, output errors, routed rows sorted and multiplied,
and the benchmark's reading."""

N_SEARCH_STEPS = 3 * 6 + 4
"""Steps of formats with and without a code book, in blocks of 16 and 32; products."""

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def gpu_problem() -> str | None:
    """Why there is no GPU to test with, None if there is one."""
    try:
        list_gpus()
    except apex.DeviceError as error:
        return str(error)
    return None


needs_gpu = pytest.mark.skipif(gpu_problem() is not None, reason=str(gpu_problem()))
needs_no_gpu = pytest.mark.skipif(gpu_problem() is None, reason="this machine has a GPU")


# --- the algorithms, on the CPU -----------------------------------------------------------------


def run_twin(*arguments: str) -> str:
    program = build_program("twin_vs_ggml")
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def counts(line: str) -> tuple[int, int, int]:
    """Rows compared, handed back to the CPU and differing, from a line of twin_vs_ggml."""
    words = line.split()
    rows, back, differ = (words[words.index(key) + 1] for key in ("rows", "back", "differ"))
    return int(rows), int(back), int(differ)


def test_the_kernels_algorithms_write_ggmls_bytes() -> None:
    lines = run_twin("--rows", "150").splitlines()
    assert len(lines) == 27  # 15 types twice, three of which need a matrix
    for line in lines:
        rows, back, differ = counts(line)
        assert rows >= 150
        assert differ == 0
        # Denormal weights and sums out of range; the data are chosen to provoke that.
        assert back < rows // 3, line


@pytest.mark.slow
def test_the_kernels_algorithms_on_many_rows() -> None:
    program = build_program("twin_vs_ggml")

    def run(seed: int) -> subprocess.CompletedProcess[str]:
        command = [program, "--rows", "5000", "--seed", str(100 + seed)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(run, range(2)):
            assert done.returncode == 0, done.stdout + done.stderr


# --- the kernels, compiled ----------------------------------------------------------------------


def compile_kernels(sources: list[Path], folder: Path) -> tuple[int, list[int]]:
    """Kernels compiled for sm_90 with the build's own flags, and bytes that functions spill."""
    llama = llama_cpp_source()

    def compile_one(source: Path) -> str:
        done = subprocess.run(
            [
                str(NVCC), "-std=c++17", "-O3", "-arch=sm_90", "-fmad=false", "-prec-div=true",
                "-prec-sqrt=true", "-ftz=false", "--expt-relaxed-constexpr", "-Xptxas=-v",
                "-Xcompiler=-ffp-contract=off,-Wall,-Wextra,-Wno-unknown-pragmas", "-Werror",
                "all-warnings", f"-I{ROOT / 'csrc'}", f"-I{llama / 'ggml' / 'include'}",
                f"-I{llama / 'ggml' / 'src'}", "-c", str(source),
                "-o", str(folder / f"{source.stem}.o"),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    with ThreadPoolExecutor(2) as pool:
        reports = "".join(pool.map(compile_one, sources))
    objects = [folder / f"{source.stem}.o" for source in sources]
    assert all(path.stat().st_size > 10_000 for path in objects)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", reports)]
    return reports.count("Compiling entry function"), spills


SEARCH = ROOT / "csrc" / "cuda" / "scalar_search.cu"


@needs_nvcc
def test_the_kernels_compile_and_keep_their_registers(tmp_path: Path) -> None:
    """A spill would show up as a slow kernel only."""
    found = sorted((ROOT / "csrc").rglob("*.cu"))
    sources = [p for p in found if p.parent.name != "turbo" and p != SEARCH]
    assert len(sources) == 16
    n_kernels, spills = compile_kernels(sources, tmp_path)
    assert n_kernels == len(spills) == N_KERNELS
    # IQ3_S with a matrix keeps three words on the stack, an error sum eight.
    assert max(spills) <= 32


@needs_nvcc
@pytest.mark.slow
def test_the_search_with_error_feedback_compiles(tmp_path: Path) -> None:
    """Outside its loops it keeps few words on the stack: two minutes."""
    n_kernels, spills = compile_kernels([SEARCH], tmp_path)
    assert n_kernels == len(spills) == N_SEARCH_STEPS
    assert max(spills) <= 128


@needs_nvcc
def test_the_kernels_of_cache_types_compile(tmp_path: Path) -> None:
    """Those that need none of ggml's own headers; a build for a GPU compiles the rest."""
    include = [f"-I{llama_cpp_source() / 'ggml' / 'include'}", f"-I{ROOT / 'csrc' / 'turbo'}"]
    done = subprocess.run(
        [str(NVCC), "-std=c++17", "-O3", "-arch=sm_90", "-use_fast_math", "-Xptxas=-v", *include,
         "-Werror", "all-warnings", "-c", str(ROOT / "csrc" / "turbo" / "turbo_rows.cu"),
         "-o", str(tmp_path / "rows.o")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Compiling entry function") == 3 * 3  # written by two kinds of numbers
    assert {int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr)} == {0}


def llama_cpp_source() -> Path:
    """The pinned source: the environment's, or what the build has put into the cache."""
    if "APEX_LLAMA_CPP_DIR" in os.environ:
        return Path(os.environ["APEX_LLAMA_CPP_DIR"])
    fetch = ROOT / "third_party" / "llama.cpp" / "fetch.py"
    run = subprocess.run([sys.executable, fetch], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())


# --- the driver ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "5"])
def test_streams_have_queues_of_their_own(given: str | None) -> None:
    """CUDA reads the variable when it starts; what the caller says stays."""
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    code = (
        "import ctypes, apex_native._core\n"
        "getenv = ctypes.CDLL(None).getenv\n"
        "getenv.restype = ctypes.c_char_p\n"
        f"print((getenv({name!r}.encode()) or b'unset').decode())"
    )
    environment = {key: value for key, value in os.environ.items() if key != name}
    if given is not None:
        environment[name] = given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    expected = "32" if core.build_info()["cuda"] else "unset"
    assert done.stdout.strip() == (given or expected)


# --- choosing a device --------------------------------------------------------------------------


@needs_no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda:all"])
def test_without_a_gpu_the_message_says_what_to_do(tmp_path: Path, device: str) -> None:
    with apex.open_gguf(demo_model()) as model:
        plan = apex.make_plan(model, ftype="Q4_0")
        with pytest.raises(apex.DeviceError, match=r"; .*use the CPU"):
            apex.quantize(model, plan, tmp_path / "out.gguf", device=device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(apex.DeviceError, match="expected cpu, cuda, cuda:N or cuda:all"):
        DeviceUse.parse(device)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_verify_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        DeviceUse.parse("cpu", rate)


def test_the_cpu_needs_no_device() -> None:
    assert DeviceUse.parse("cpu").numbers == []


# --- on a GPU -----------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("ftype", ["Q8_0", "Q4_K_M", "IQ4_XS", "IQ3_S", "IQ2_S", "IQ1_M"])
def test_a_gpu_writes_the_cpus_file(tmp_path: Path, ftype: str) -> None:
    matrix = apex.load_imatrix(demo_imatrix())
    with apex.open_gguf(demo_model()) as model:
        plan = apex.make_plan(model, ftype=ftype, imatrix=matrix)
        cpu = apex.quantize(model, plan, tmp_path / "cpu.gguf", imatrix=matrix)
        gpu = apex.quantize(model, plan, tmp_path / "gpu.gguf", imatrix=matrix, device="cuda",
                            verify_gpu=1.0)  # fmt: skip
    assert differing_tensors(tmp_path / "gpu.gguf", tmp_path / "cpu.gguf") == []
    assert gpu.device_rows > 0
    assert gpu.verified_rows == gpu.device_rows
    assert [(t.name, t.squared_error, t.squared_weights) for t in gpu.tensors] == [
        (t.name, t.squared_error, t.squared_weights) for t in cpu.tensors
    ]


def awkward_rows() -> npt.NDArray[np.float32]:
    """Experts of rows that the kernels hand back to the CPU, or nearly."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((3, 90, 1024), dtype=np.float32) * np.float32(0.02)
    rows[0, 3] = 0
    rows[0, 4:20] *= np.float32(1e-38)  # denormals
    rows[0, 20:30] = np.float32(-0.01) - np.abs(rows[0, 20:30]) * np.float32(1e-5)
    rows[1, 40, ::7] = np.float32(-0.0)
    rows[1, 50:60] = np.float32(0.25)
    rows[2, :10] *= np.float32(1e6)
    return rows


@needs_gpu
@pytest.mark.parametrize("name", TYPES)
def test_rows_handed_back_are_the_cpus(tmp_path: Path, output: int, name: str) -> None:
    weights = awkward_rows()
    importance = np.random.default_rng(6).lognormal(0, 1, (3, 1024)).astype(np.float32)
    for values in [importance] if name in NEEDING_IMATRIX else [importance, None]:
        results = []
        for devices in ([], [0]):
            with model(tmp_path, weights) as file:
                done = finish(
                    start(file, (0, GgmlType[name].id, output, 0, values), devices=devices)
                )
            results.append((done, os.pread(output, 2 * weights.size, 0)))
        assert results[0] == results[1]


@needs_gpu
@pytest.mark.parametrize(("bad", "message"), [(np.nan, "row 61, column 7 holds"),
                                              (np.float32(1e30), "rows 61 to 61")])  # fmt: skip
def test_weights_a_gpu_cannot_quantize_are_named(
    tmp_path: Path, output: int, bad: float, message: str
) -> None:
    weights = awkward_rows()
    weights[1, 61, 7] = bad
    with model(tmp_path, weights) as file:
        job = start(file, (0, GgmlType.Q4_K.id, output, 0, None), devices=[0])
        with pytest.raises(apex.QuantizeError, match=f"tensor 't.weight', expert 1, {message}"):
            finish(job)


@needs_gpu
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(apex.DeviceError, match="there is no cuda:99: this machine has cuda:0"):
        DeviceUse.parse("cuda:99")


def test_the_build_says_whether_it_has_cuda() -> None:
    assert isinstance(core.build_info()["cuda"], bool)
