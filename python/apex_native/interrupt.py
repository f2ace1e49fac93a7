"""Native calls that hear Ctrl-C: the call runs in a thread, the main thread waits and listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["POLL_S", "run_interruptible"]

POLL_S = 0.1
"""Seconds between looks: Ctrl-C is heard and progress shown ten times a second."""

START_S = 5.0
"""Seconds a thread may take to come to life on a busy machine."""

Result = TypeVar("Result")


class _Call(Generic[Result]):
    """One call in a thread of its own, its result or its exception kept."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="apex-native call", daemon=True)
        # Waited for instead of the thread: a join that Ctrl-C interrupts makes CPython up to 3.12
        # believe that the thread has ended, and a second join returns while it still runs.
        self.finished = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            self._error = error
        finally:
            self.finished.set()

    def wait_if_started(self) -> None:
        """Wait for the end; not where an interrupt came so early that there is no thread."""
        deadline = time.monotonic() + START_S
        while self._thread.ident is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if self._thread.ident is not None:
            self.finished.wait()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


def run_interruptible(
    call: Callable[[], Result],
    stop: Callable[[], None],
    tick: Callable[[], None] | None = None,
) -> Result:
    """Run a call that releases the GIL; on any exception in this thread stop it, then wait for it.

    stop makes the call end soon (for native calls: ``StopFlag.set``). tick is called every
    `POLL_S` seconds in the caller's thread, for progress; what it raises stops the call as Ctrl-C
    does. Returns what the call returns and raises what it raises; after a stop the exception that
    caused it is raised, not the call's.
    """
    running = _Call(call)
    try:
        running.start()
        while not running.finished.wait(POLL_S):
            if tick is not None:
                tick()
    except BaseException:
        stop()
        running.wait_if_started()
        raise
    result: Result = running.result()
    return result
