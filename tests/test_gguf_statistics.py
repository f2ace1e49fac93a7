"""Weight statistics against numpy, their independence of threads, and how they fail and stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import gguf_builder as build
from apex_native.errors import QuantizeError
from apex_native.gguf import GgufFile, open_gguf
from tolerances import STATISTICS_MEAN_ATOL, STATISTICS_RTOL

Weights = npt.NDArray[np.float32]


def model(tmp_path: Path, **tensors: npt.ArrayLike) -> GgufFile:
    path = tmp_path / "model.gguf"
    made = [build.f32_tensor(name, weights) for name, weights in tensors.items()]
    return open_gguf(build.write_gguf(path, made))


def gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    return rng.standard_normal(shape).astype(np.float32)


def heavy_tailed(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    return rng.standard_t(3, shape).astype(np.float32)


def near_one(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    """What a norm weight looks like; raw power sums would lose every digit of its kurtosis."""
    return (1 + 1e-4 * rng.standard_normal(shape)).astype(np.float32)


def one_outlier_first(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    weights = gaussian(shape, rng)
    weights.flat[0] = 1000
    return weights


def scales_by_expert(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    scale = 10.0 ** np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (gaussian(shape, rng) * scale + scale).astype(np.float32)


def huge(shape: tuple[int, ...], rng: np.random.Generator) -> Weights:
    return (1e37 * rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 32), (5, 96), (3, 70, 256), (2, 2, 33, 1024)])
@pytest.mark.parametrize(
    "make", [gaussian, heavy_tailed, near_one, one_outlier_first, scales_by_expert, huge]
)
def test_against_numpy(tmp_path: Path, rng: np.random.Generator, make, shape) -> None:
    weights = make(shape, rng)
    found = model(tmp_path, t=weights).statistics(["t"])[0]
    x = weights.astype(np.float64)
    mean = x.mean()
    assert found.n == x.size
    np.testing.assert_allclose(
        found.mean, mean, rtol=STATISTICS_RTOL, atol=STATISTICS_MEAN_ATOL * found.max_abs
    )
    np.testing.assert_allclose(found.rms, np.sqrt((x**2).mean()), rtol=STATISTICS_RTOL)
    assert found.max_abs == np.abs(x).max()
    kurtosis = ((x - mean) ** 4).mean() / ((x - mean) ** 2).mean() ** 2
    np.testing.assert_allclose(found.kurtosis, kurtosis, rtol=STATISTICS_RTOL)
    row_rms = np.sqrt((x**2).mean(axis=-1, keepdims=True))
    assert found.outlier_share == (np.abs(x) > 4 * row_rms).sum() / x.size


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7, -3e30, 1e-40])
def test_equal_weights_have_no_kurtosis(tmp_path: Path, value: float) -> None:
    found = model(tmp_path, t=np.full((40, 4096), value)).statistics(["t"])[0]
    stored = float(np.float32(value))
    assert found.mean == stored
    assert found.kurtosis == 0
    assert found.outlier_share == 0
    assert found.max_abs == abs(stored)
    np.testing.assert_allclose(found.rms, abs(stored), rtol=STATISTICS_RTOL)


def test_a_gaussian_has_kurtosis_3(tmp_path: Path, rng: np.random.Generator) -> None:
    found = model(tmp_path, t=gaussian((256, 4096), rng)).statistics(["t"])[0]
    # The standard error of a Gaussian's kurtosis is sqrt(24 / n) = 0.0048.
    assert abs(found.kurtosis - 3) < 6 * np.sqrt(24 / found.n)
    # P(|x| > 4 sigma) = 6.33e-5: 66 weights expected, Poisson.
    assert abs(found.outlier_share * found.n - 66.4) < 6 * np.sqrt(66.4)


def test_one_result_for_each_name_in_order(tmp_path: Path) -> None:
    file = model(tmp_path, a=np.full(32, 1), b=np.full((2, 32), 2), c=np.full((3, 64), 3))
    assert [s.mean for s in file.statistics(["c", "a", "b", "a"])] == [3, 1, 2, 1]
    assert [s.n for s in file.statistics(["c", "a", "b", "a"])] == [192, 32, 64, 32]
    assert file.statistics([]) == []


def test_a_tensor_without_weights_has_none(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    weights = build.f32_tensor("b", np.ones((2, 32)))
    build.write_gguf(path, [build.f32_tensor("a", np.ones((0, 32))), weights])
    with open_gguf(path) as file:
        empty, full = file.statistics(["a", "b"])
    assert (empty.n, empty.mean, empty.rms) == (0, 0.0, 0.0)
    assert full.n == 64


def test_thread_count_changes_no_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    # 40 units of 64 Ki weights, so that seven threads really share the work.
    file = model(tmp_path, a=heavy_tailed((8, 64, 4096), rng), b=near_one((129, 4096), rng))
    one = file.statistics(["a", "b"], n_threads=1)
    for n_threads in (2, 7, 1000):
        assert file.statistics(["a", "b"], n_threads=n_threads) == one


def test_quantized_and_half_tensors(tmp_path: Path, rng: np.random.Generator) -> None:
    halves = rng.standard_normal((4, 64)).astype(np.float16)
    blocks = b"".join(
        np.float16(0.5).tobytes() + rng.integers(-127, 128, 32, np.int8).tobytes() for _ in range(8)
    )
    tensors = [
        build.f16_tensor("half", halves),
        build.quantized_tensor("q8", build.Q8_0, (2, 128), blocks),
    ]
    file = open_gguf(build.write_gguf(tmp_path / "model.gguf", tensors))
    half, q8 = file.statistics(["half", "q8"])
    np.testing.assert_allclose(half.mean, halves.astype(np.float64).mean(), rtol=STATISTICS_RTOL)
    expected = np.frombuffer(blocks, np.int8).reshape(8, 34)[:, 2:].astype(np.float64) * 0.5
    np.testing.assert_allclose(q8.mean, expected.mean(), rtol=STATISTICS_RTOL)
    np.testing.assert_allclose(q8.rms, np.sqrt((expected**2).mean()), rtol=STATISTICS_RTOL)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite(tmp_path: Path, bad: float) -> None:
    weights = np.ones((3, 100, 1024), np.float32)
    weights[2, 71, 5] = bad
    file = model(tmp_path, good=np.ones(32), bad=weights)
    with pytest.raises(QuantizeError, match=r"tensor 'bad', expert 2, row 71, column 5 holds"):
        file.statistics(["good", "bad"])
    assert file.statistics(["good"])[0].mean == 1


def test_first_bad_weight_is_the_one_reported(tmp_path: Path) -> None:
    weights = np.ones((40, 100, 1024), np.float32)
    weights[np.arange(3, 40), :, 7] = np.nan
    file = model(tmp_path, t=weights)
    for _ in range(20):
        with pytest.raises(QuantizeError, match=r"expert 3, row 0, column 7 holds"):
            file.statistics(["t"], n_threads=8)


def test_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        model(tmp_path, t=np.ones(32)).statistics(["u"])


INTERRUPTED = """
import signal
# A parent that ignores SIGINT (nohup, a background job) hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from apex_native.gguf import open_gguf
file = open_gguf(sys.argv[1])
print("begin", flush=True)
try:
    # The same tensor over and over: hours of work without a large file.
    file.statistics(["t"] * 200_000, n_threads=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_stops_the_work(tmp_path: Path) -> None:
    path = model(tmp_path, t=np.ones((16, 65536), np.float32)).path
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begin\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        try:
            output, _ = child.communicate(timeout=60)
        finally:
            child.kill()
        assert output == "interrupted\n"
        assert child.returncode == 0
