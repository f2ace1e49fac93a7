"""Our vectorised quantizers write the bytes that ggml's own functions write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo import demo_imatrix, demo_model
from apex_native.types import GgmlType
from cpp_programs import build_program

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

MATRIX_USE = {GgmlType.from_id(id).name: use for id, use in core.quantized_types().items()}
TYPES = list(MATRIX_USE)
NEEDING_IMATRIX = [name for name, use in MATRIX_USE.items() if use == "required"]
SHAPES = [(5, 256), (3, 512), (2, 1280), (1, 8192)]
"""Rows of one block, of two, of a number that no lane count divides, and of many."""


def bf16(values: npt.ArrayLike) -> Floats:
    """Rounded to eight bits of mantissa, so that many values tie."""
    bits = np.array(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def one_outlier(rng: np.random.Generator, shape: tuple[int, int]) -> Doubles:
    values = 1e-3 * rng.standard_normal(shape)
    values[:, rng.integers(shape[1])] = 40.0
    return values


WEIGHTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], npt.ArrayLike]] = {
    "Gaussian": lambda rng, shape: 0.03 * rng.standard_normal(shape),
    "heavy-tailed": lambda rng, shape: 0.01 * rng.standard_t(1.5, shape),
    "uniform": lambda rng, shape: rng.uniform(-0.5, 0.5, shape),
    "constant": lambda rng, shape: np.full(shape, -0.037),
    "all zero": lambda _, shape: np.zeros(shape),
    "one outlier": one_outlier,
    "denormal": lambda rng, shape: 1e-40 * rng.standard_normal(shape),
    "signed zeros": lambda rng, shape: rng.choice([0.0, -0.0, 0.02, -0.02], shape),
    "BF16": lambda rng, shape: bf16(0.02 * rng.standard_normal(shape)),
    "few values": lambda rng, shape: rng.integers(-3, 4, shape) / 64,
}

MATRICES: dict[str, Callable[[np.random.Generator, int], npt.ArrayLike] | None] = {
    "none": None,
    "random": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "with zeros": lambda rng, n: rng.random(n) * (rng.random(n) < 0.5),
    "zero blocks": lambda _, n: (np.arange(n) // 32 % 2).astype(float),
    "huge range": lambda rng, n: 10.0 ** rng.uniform(-12, 8, n),
    "all equal": lambda _, n: np.ones(n),
    "all zero": lambda _, n: np.zeros(n),
}


def assert_same_bytes(name: str, weights: npt.ArrayLike, matrix: Floats | None, case: str) -> None:
    number = GgmlType[name].id
    rows = np.ascontiguousarray(weights, np.float32)
    stock = core.quantize_rows(rows, number, matrix, own_kernel=False)
    np.testing.assert_array_equal(core.quantize_rows(rows, number, matrix), stock, case)


def types_and_matrices() -> list[tuple[str, str]]:
    return [(n, m) for n in TYPES for m in MATRICES if m != "none" or n not in NEEDING_IMATRIX]


@pytest.mark.parametrize(("name", "matrix_name"), types_and_matrices())
def test_same_bytes_as_ggml(rng: np.random.Generator, name: str, matrix_name: str) -> None:
    make_matrix = MATRICES[matrix_name]
    for shape in SHAPES:
        matrix = make_matrix and np.asarray(make_matrix(rng, shape[1]), np.float32)
        for weights_name, make_weights in WEIGHTS.items():
            assert_same_bytes(name, make_weights(rng, shape), matrix, f"{weights_name} {shape}")


@cache
def real_rows() -> dict[str, tuple[Floats, Floats]]:
    """Tensor of the demo model -> a few of its rows and its importances."""
    matrix = apex.load_imatrix(demo_imatrix())
    kinds = ["blk.1.attn_qkv", "blk.1.ffn_down_exps", "blk.1.ffn_gate_exps", "blk.1.ffn_up_shexp"]
    with apex.open_gguf(demo_model()) as model:
        names = [f"{kind}.weight" for kind in kinds]
        return {
            name: (
                model.to_float32(name).reshape(-1, model.tensors[model.index(name)].n_per_row)[:40],
                np.ascontiguousarray(matrix.entries[name].values, np.float32).reshape(-1),
            )
            for name in names
        }


@pytest.mark.parametrize("name", TYPES)
def test_same_bytes_of_real_rows(name: str) -> None:
    for tensor, (weights, importance) in real_rows().items():
        assert_same_bytes(name, weights, importance[: weights.shape[1]], tensor)
        if name not in NEEDING_IMATRIX:
            assert_same_bytes(name, weights, None, tensor)


# --- which kernels are used ---------------------------------------------------------------------


def isa_under(environment_value: str | None) -> str:
    """What a new process says it uses with APEX_ISA set so, or unset."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("APEX_ISA", None)
    if environment_value is not None:
        environment["APEX_ISA"] = environment_value
    code = "from apex_native._native import core; print(core.kernel_isa())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_environment_lowers_the_instruction_set() -> None:
    best = isa_under(None)
    order = ["portable", "avx2", "avx512"]
    assert best in order
    for limit in order:
        assert isa_under(limit) == min(best, limit, key=order.index)
    assert isa_under("sse9") == best


# --- the programs of tests/cpp ------------------------------------------------------------------

ROWS_PER_SETTING = 50_000
"""Rows per type and matrix setting: enough for rare ties and search paths to turn up."""


def run_program(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def compared_rows(lines: str) -> dict[tuple[str, str, str], int]:
    """(type, matrix setting, ISA) -> rows, from lines like `q4_K  no matrix  avx2  rows 7 ...`."""
    found = {}
    for line in lines.splitlines():
        head, _, tail = line.partition(" rows ")
        name, *matrix, isa = head.split()
        found[name, " ".join(matrix), isa] = int(tail.split()[0])
    return found


def expected_settings(isas: list[str]) -> set[tuple[str, str, str]]:
    return {
        (str(GgmlType[name]).lower().replace("k", "K"), matrix, isa)
        for name in TYPES
        for matrix in ("matrix", "no matrix")
        for isa in isas
        if matrix == "matrix" or name not in NEEDING_IMATRIX
    }


def available_isas(program: str) -> list[str]:
    """The ISAs with kernels that this CPU has; says so where one is missing."""
    isas = []
    for isa in ("avx2", "avx512"):
        probe = [program, "--isa", isa, "--types", "q8_0", "--rows", "1"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            isas.append(isa)
        else:
            print(f"not compared: {done.stderr.strip()}")
    assert isas or isa_under(None) == "portable"
    return isas


def compare_all_types(program: str, n_rows: int) -> dict[tuple[str, str, str], int]:
    """Every type in a process of its own, as many at a time as there are cores."""
    names = [str(GgmlType[name]).lower().replace("k", "K") for name in TYPES]
    # The slowest first, so that the last process is a short one.
    commands = [[program, "--types", name, "--rows", str(n_rows)] for name in reversed(names)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = list(pool.map(lambda command: run_program(*command), commands))
    return compared_rows("".join(outputs))


@pytest.mark.slow
def test_randomised_differential() -> None:
    program = str(build_program("kernels_vs_ggml"))
    isas = available_isas(program)
    if isas:
        compared = compare_all_types(program, ROWS_PER_SETTING)
        assert compared.keys() == expected_settings(isas)
        assert min(compared.values()) >= ROWS_PER_SETTING


@pytest.mark.slow
def test_fuzz_target_finds_nothing_in_random_inputs() -> None:
    # Coverage-guided fuzzing needs clang (csrc/kernels/README.md); this replays random inputs.
    program = str(build_program("fuzz_kernels"))
    assert run_program(program, "--random", "2000").endswith("2000 random inputs, no difference\n")


@pytest.mark.slow
def test_sanitizers_find_nothing() -> None:
    program = str(build_program("kernels_vs_ggml", sanitize=True))
    isas = available_isas(program)
    if isas:
        assert compare_all_types(program, 20).keys() == expected_settings(isas)
    run_program(str(build_program("fuzz_kernels", sanitize=True)), "--random", "40")
