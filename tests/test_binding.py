"""The native core seen from Python: the GIL, threads, lifetimes, stopping."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_native._native import core
from apex_native.types import GgmlType
from isolation import Isolation
from job_tools import SOON, finish, gaussian, model, start

SLOW_TYPE = GgmlType.Q4_1
"""With a matrix ggml's own scalar code does it on every CPU: some 10 million weights a second."""


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


# --- the GIL ------------------------------------------------------------------------------------


def ticks_during(call: Callable[[], object]) -> int:
    """How often another Python thread ran while call did."""
    ticks = 0
    stop = False

    def tick() -> None:
        nonlocal ticks
        while not stop:
            time.sleep(0.001)
            ticks += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        before = ticks
        call()
        after = ticks
    finally:
        stop = True
        ticker.join()
    return after - before


def assert_gil_is_released(call: Callable[[], object]) -> None:
    # A ticker with the GIL to itself ticks every 1.1 ms; one that is locked out, once or never. On
    # a busy machine the threads may get their turns one after the other: once must be enough.
    assert any(ticks_during(call) > 3 for _ in range(10))


def test_gil_is_released_by_quantize_rows() -> None:
    weights, matrix = gaussian(4096, 2048), np.ones(2048, np.float32)
    assert_gil_is_released(lambda: core.quantize_rows(weights, SLOW_TYPE.id, matrix))


def test_gil_is_released_by_wait(tmp_path: Path, output: int) -> None:
    file = model(tmp_path, gaussian(4096, 2048))
    job = start(file, (0, SLOW_TYPE.id, output, 0, np.ones(2048, np.float32)), n_threads=1)
    assert_gil_is_released(lambda: job.wait(60_000))
    finish(job)


def test_gil_is_released_by_statistics(tmp_path: Path) -> None:
    file = model(tmp_path, gaussian(1024, 2048))
    assert_gil_is_released(lambda: file.statistics(["t.weight"] * 200, n_threads=1))


# --- several threads at once --------------------------------------------------------------------


def test_calls_from_several_threads(tmp_path: Path) -> None:
    types = [GgmlType.Q4_K, GgmlType.Q6_K, GgmlType.IQ4_XS, GgmlType.Q8_0] * 4
    weights, matrix = gaussian(64, 1024), np.ones(1024, np.float32)
    file = model(tmp_path, weights)

    def work(type: GgmlType) -> tuple[bytes, bytes, object]:
        stored = core.quantize_rows(weights, type.id, matrix)
        restored = core.dequantize_rows(stored, type.id, 1024)
        return stored.tobytes(), restored.tobytes(), file.statistics(["t.weight"])

    alone = [work(type) for type in types]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, types)) == alone


def race_for_the_tables(name: str) -> bool:
    """In a fresh process: the first use of a type, by four threads at once."""
    weights, matrix = gaussian(8, 512), np.ones(512, np.float32)
    barrier = threading.Barrier(4)

    def work(_: int) -> bytes:
        barrier.wait()
        return core.quantize_rows(weights, GgmlType[name].id, matrix).tobytes()

    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(work, range(4)))
    return results == {core.quantize_rows(weights, GgmlType[name].id, matrix).tobytes()}


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ3_S"])
def test_first_use_of_search_tables_by_several_threads(isolation: Isolation, name: str) -> None:
    outcome = isolation.run(race_for_the_tables, name)
    assert outcome.value is True, outcome


def test_two_jobs_at_once(tmp_path: Path) -> None:
    file = model(tmp_path, gaussian(64, 1024))
    with contextlib.ExitStack() as stack:
        outputs = []
        for number in range(4):
            descriptor = os.open(tmp_path / f"output{number}", os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, descriptor)
            outputs.append(descriptor)
        jobs = [start(file, (0, GgmlType.Q4_K.id, output, 0, None)) for output in outputs]
        for job in jobs:
            finish(job)
        assert len({content(output) for output in outputs}) == 1


# --- what a job writes --------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_job_writes_what_quantize_rows_gives(tmp_path: Path, output: int, n_threads: int) -> None:
    experts, rows, n_per_row = 3, 100, 1024  # two units of 64 rows or fewer per expert
    weights = gaussian(experts, rows, n_per_row)
    matrix = np.random.default_rng(12).lognormal(0, 1, (experts, n_per_row)).astype(np.float32)
    expected = [
        core.quantize_rows(weights[e], GgmlType.Q4_K.id, np.ascontiguousarray(matrix[e]))
        for e in range(experts)
    ]
    file = model(tmp_path, weights)
    offset = 4096
    n_bytes = sum(stored.nbytes for stored in expected)
    job = start(
        file,
        (0, GgmlType.Q4_K.id, output, offset, matrix),
        (0, GgmlType.F32.id, output, offset + n_bytes, None),
        n_threads=n_threads,
    )
    assert job.n_threads == n_threads
    done = {task: (error, squares) for task, error, squares, _ in finish(job)}
    assert job.source_bytes_done == 2 * weights.nbytes
    assert content(output)[offset:] == b"".join(e.tobytes() for e in expected) + weights.tobytes()
    restored = np.stack([core.dequantize_rows(e, GgmlType.Q4_K.id, n_per_row) for e in expected])
    exact = weights.astype(np.float64)
    np.testing.assert_allclose(done[0], (((exact - restored) ** 2).sum(), (exact**2).sum()))
    assert done[1] == (0, 0)  # copied: no error to speak of


def test_thread_count_changes_no_bit_of_the_errors(tmp_path: Path) -> None:
    file = model(tmp_path, gaussian(300, 1024))
    found = set()
    for n_threads in (1, 2, 7):
        with (tmp_path / f"output{n_threads}").open("wb") as out:
            job = start(file, (0, GgmlType.Q3_K.id, out.fileno(), 0, None), n_threads=n_threads)
            found.add(tuple(finish(job)))
    assert len(found) == 1


def test_job_keeps_file_and_matrix_alive(tmp_path: Path, output: int) -> None:
    weights, matrix = gaussian(512, 2048), np.full(2048, 2, np.float32)
    expected = core.quantize_rows(weights, SLOW_TYPE.id, matrix)
    file = model(tmp_path, weights)
    job = start(file, (0, SLOW_TYPE.id, output, 0, matrix), n_threads=1)
    file.close()
    file.path.unlink()
    del file, matrix
    gc.collect()
    finish(job)
    assert content(output) == expected.tobytes()


def test_job_without_tasks(tmp_path: Path) -> None:
    job = start(model(tmp_path, gaussian(2, 32)))
    assert finish(job) == []
    assert job.source_bytes_done == 0


# --- stopping -----------------------------------------------------------------------------------


def long_job(tmp_path: Path, output: int) -> Any:
    """Some ten seconds of work, begun."""
    file = model(tmp_path, gaussian(4096, 2048))
    n_bytes = SLOW_TYPE.tensor_bytes((4096, 2048))
    matrix = np.ones(2048, np.float32)
    tasks = [(0, SLOW_TYPE.id, output, i * n_bytes, matrix) for i in range(20)]
    job = start(file, *tasks)
    while job.source_bytes_done == 0:
        job.wait(1)
    return job


def end_by_close(job: Any) -> None:
    job.close()


def end_by_destructor(job: Any) -> None:
    del job
    gc.collect()


@pytest.mark.parametrize("end", [end_by_close, end_by_destructor])
def test_stopped_halfway(tmp_path: Path, output: int, end: Callable[[Any], None]) -> None:
    jobs = [long_job(tmp_path, output)]
    end(jobs.pop())
    left = content(output)
    assert len(left) < 20 * SLOW_TYPE.tensor_bytes((4096, 2048)), "it went on to the end"
    time.sleep(0.05)
    assert content(output) == left, "a worker still writes"


def test_closed_job(tmp_path: Path, output: int) -> None:
    job = start(model(tmp_path, gaussian(2, 32)), (0, GgmlType.Q8_0.id, output, 0, None))
    job.close()
    job.close()
    for use in (lambda: job.wait(1), lambda: job.finished, lambda: job.source_bytes_done):
        with pytest.raises(ValueError, match="this job was closed"):
            use()


def test_close_while_another_thread_waits(tmp_path: Path, output: int) -> None:
    job = long_job(tmp_path, output)
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with contextlib.suppress(ValueError):  # closed before the next call
            while True:
                job.wait(60_000)

    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(wait)
        waiting.wait()
        time.sleep(0.02)
        begin = time.monotonic()
        job.close()
        waiter.result()
    assert time.monotonic() - begin < SOON, "the wait ended with its timeout"


def test_wait_returns_as_soon_as_all_is_done(tmp_path: Path, output: int) -> None:
    job = start(model(tmp_path, gaussian(2, 32)), (0, GgmlType.Q8_0.id, output, 0, None))
    begin = time.monotonic()
    finish(job)  # with a timeout of a minute
    assert job.wait(60_000) == []
    assert time.monotonic() - begin < SOON, "the wait ended with its timeout"
