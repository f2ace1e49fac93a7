"""Jobs that fail or are refused: the class of the error, and what its message names."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_builder as build
from apex_native._native import core
from apex_native.errors import ApexError, GgufError, ImatrixError, OutputError, QuantizeError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.types import GgmlType
from isolation import Isolation
from job_tools import SOON, finish, gaussian, model, of_tensor, start

# --- errors of workers --------------------------------------------------------------------------


def failure(file: GgufFile, *tasks: tuple[Any, ...], n_threads: int = 2) -> BaseException:
    job = start(file, *tasks, n_threads=n_threads)
    begin = time.monotonic()
    with pytest.raises(ApexError) as first:
        finish(job)
    assert time.monotonic() - begin < SOON, "the error was waited for"
    with pytest.raises(first.type) as again:
        job.wait(0)
    assert str(again.value) == str(first.value)
    return first.value


@pytest.mark.parametrize("target", [GgmlType.Q8_0, GgmlType.F32])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weight_that_is_not_finite(
    tmp_path: Path, output: int, target: GgmlType, bad: float
) -> None:
    weights = gaussian(4, 200, 1024)
    weights[2, 150, 7] = bad
    weights[3] = np.nan
    file = model(tmp_path, weights)
    for n_threads in (1, 8):
        error = failure(file, (0, target.id, output, 0, None), n_threads=n_threads)
        assert isinstance(error, QuantizeError)
        assert str(error).startswith("tensor 't.weight', expert 2, row 150, column 7 holds")


def test_weights_too_large_for_the_type(tmp_path: Path, output: int) -> None:
    weights = gaussian(3, 100, 1024)
    weights[1, 70, :] = 1e30
    error = failure(model(tmp_path, weights), (0, GgmlType.Q8_0.id, output, 0, None))
    assert isinstance(error, QuantizeError)
    assert "tensor 't.weight', expert 1, rows 64 to 99: " in str(error)
    assert "too large" in str(error)


def test_matrix_words_have_no_expert(tmp_path: Path, output: int) -> None:
    weights = gaussian(100, 1024)
    weights[3, 4] = np.nan
    error = failure(model(tmp_path, weights), (0, GgmlType.Q8_0.id, output, 0, None))
    assert str(error).startswith("tensor 't.weight', row 3, column 4 holds")


def test_damaged_blocks_are_not_copied(tmp_path: Path, output: int) -> None:
    blocks = bytearray(bytes(34) * 64)
    blocks[34 * 40 : 34 * 40 + 2] = np.float16(np.inf).tobytes()
    tensor = build.quantized_tensor("t.weight", build.Q8_0, (64, 32), bytes(blocks))
    file = open_gguf(build.write_gguf(tmp_path / "model.gguf", [tensor]))
    error = failure(file, (0, build.Q8_0, output, 0, None))
    assert isinstance(error, QuantizeError)
    assert "tensor 't.weight', rows 0 to 63: the stored q8_0 data are not valid" in str(error)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    file = model(tmp_path, gaussian(2, 32))
    with file.path.open("rb") as read_only:
        error = failure(file, (0, GgmlType.Q8_0.id, read_only.fileno(), 0, None))
    assert isinstance(error, OutputError)
    assert "writing tensor 't.weight', rows 0 to 1 at byte 0: Bad file descriptor" in str(error)


# --- tasks that are refused at once -------------------------------------------------------------

Task = tuple[Any, ...]
MATRIX = np.ones(64, np.float32)
REFUSED: dict[str, tuple[Task, type[BaseException], str]] = {
    "no such tensor": ((1, 8, 1, 0, None), IndexError, "tensor index out of range"),
    "removed type": ((0, 4, 1, 0, None), ValueError, "type number 4 is unknown"),
    "unknown type": ((0, 10**6, 1, 0, None), ValueError, "type number 1000000 is unknown"),
    "no quantizer": ((0, GgmlType.Q8_K.id, 1, 0, None), ValueError, "has no quantizer"),
    "row too short": ((0, GgmlType.Q4_K.id, 1, 0, None), ValueError, "multiple of 256"),
    "matrix too short": ((0, 8, 1, 0, MATRIX[:63]), ValueError, "expected 64 elements, found 63"),
    "matrix of doubles": ((0, 8, 1, 0, np.ones(64)), TypeError, "incompatible constructor"),
    "strided matrix": (
        *((0, 8, 1, 0, np.ones(128, "f4")[::2]), TypeError, "incompatible constructor"),
    ),
    "negative matrix": ((0, 8, 1, 0, -MATRIX), ImatrixError, "'t.weight': expert 0, column 0"),
    "NaN matrix": ((0, 8, 1, 0, MATRIX * np.nan), ImatrixError, "expected a finite value >= 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tasks(tmp_path: Path, case: str) -> None:
    task, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        start(model(tmp_path, gaussian(2, 64)), task)


def test_missing_matrix(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"'t\.weight': type iq2_xs needs an importance matrix"):
        start(model(tmp_path, gaussian(2, 256)), (0, GgmlType.IQ2_XS.id, 1, 0, None))


def test_integers_cannot_be_quantized(tmp_path: Path) -> None:
    tensor = build.Tensor("ids", (32,), build.I32, bytes(128))
    file = open_gguf(build.write_gguf(tmp_path / "model.gguf", [tensor]))
    with pytest.raises(ValueError, match="'ids' has type i32, which holds no weights"):
        start(file, (0, GgmlType.Q8_0.id, 1, 0, None))


def test_limits_of_threads_and_memory(tmp_path: Path, output: int) -> None:
    file = model(tmp_path, gaussian(64, 1024))
    plain = (0, GgmlType.Q8_0.id, output, 0, None)
    task = of_tensor(file, plain)
    with pytest.raises(ValueError, match="n_threads is 0, expected at least 1"):
        core.QuantizeJob([task], n_threads=0, max_memory=2**30)
    with pytest.raises(ValueError, match=r"one worker needs 1048576 .* raise `max_memory`"):
        core.QuantizeJob([task], n_threads=1, max_memory=2**20 - 1)
    job = core.QuantizeJob([task], n_threads=9, max_memory=3 * 2**20)
    assert job.n_threads == 3
    finish(job)
    finish(start(file, plain, n_threads=10**6))  # no more threads are started than there is work


STACK = 2**30


def limit_threads(n_stacks: int) -> bool:
    """Leave room for the stacks of so many threads; False where the system has no way to."""
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "pthread_setattr_default_np"):
        return False
    attributes = ctypes.create_string_buffer(256)  # a pthread_attr_t has 56 bytes, 64 on arm64
    assert libc.pthread_attr_init(attributes) == 0
    assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK)) == 0
    assert libc.pthread_setattr_default_np(attributes) == 0
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + n_stacks * STACK + STACK // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return True


def work_with_room_for_threads(path: str, output: str, n_stacks: int) -> bool:
    """A job for 64 threads where the system can start only n_stacks, if it can be told so."""
    file = open_gguf(path)
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT)
    limited = limit_threads(n_stacks)
    finish(start(file, (0, GgmlType.Q8_0.id, descriptor, 0, None), n_threads=64))
    return limited


@pytest.mark.parametrize("n_stacks", [0, 2])
def test_threads_that_cannot_be_started(
    isolation: Isolation, tmp_path: Path, n_stacks: int
) -> None:
    weights = gaussian(4096, 1024)  # 64 units
    path, output = model(tmp_path, weights).path, tmp_path / "out"
    outcome = isolation.run(work_with_room_for_threads, str(path), str(output), n_stacks)
    if n_stacks == 0 and outcome.value is not False:
        assert outcome.error[:1] == ("ApexError",), outcome
        assert "cannot start a thread" in outcome.message
    else:
        assert outcome.error == (), outcome
        assert output.read_bytes() == core.quantize_rows(weights, build.Q8_0).tobytes()


def test_gguf_errors_are_value_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file") as caught:
        open_gguf(tmp_path / "absent.gguf")
    assert type(caught.value) is GgufError
