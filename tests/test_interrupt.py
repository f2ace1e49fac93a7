"""Long calls in a thread: results, exceptions, and stops from the waiting side."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from apex_native.interrupt import run_interruptible


def never() -> None:
    raise AssertionError("nobody asked to stop")


def test_result_and_exception_come_through() -> None:
    assert run_interruptible(lambda: 7, never) == 7
    with pytest.raises(KeyError):
        run_interruptible(lambda: {}[1], never)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_the_waiting_thread_stops_the_call(kind: type[BaseException]) -> None:
    stop = threading.Event()
    ended = []

    def call() -> None:
        assert stop.wait(30)
        ended.append(True)
        raise ValueError("stopped")  # the waiting side's exception counts, not this one

    def tick() -> None:
        raise kind

    with pytest.raises(kind):
        run_interruptible(call, stop.set, tick)
    assert ended == [True]


def test_ctrl_c_waits_until_the_call_has_ended() -> None:
    # A real signal while the main thread waits: an exception from tick() does not show it.
    stop = threading.Event()
    ended = []

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(30)
        time.sleep(0.3)
        ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptible(call, stop.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]


def test_ticks_come_while_it_runs() -> None:
    ticks: list[int] = []
    enough = threading.Event()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            enough.set()

    assert run_interruptible(lambda: enough.wait(30), enough.set, tick)
    assert len(ticks) >= 3


@pytest.mark.parametrize("n_times", [2, 3])
def test_ctrl_c_again_waits_for_the_call_too(n_times: int) -> None:
    # A process that ends under a native call is ended by C++: "terminate called".
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = threading.Event()
    ended = []

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(30)
        for _ in range(n_times - 1):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        ended.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptible(call, stop.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]
