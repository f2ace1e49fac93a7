"""Native calls that hear Ctrl-C: the call runs in a thread, the main thread waits and listens.

A caller's own wish to stop is heard the same way, in everything that runs inside `cancellable`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from apex_native.errors import Cancelled

__all__ = ["POLL_S", "Call", "cancellable", "check_cancelled", "run_interruptible"]

POLL_S = 0.1
"""Seconds between looks: Ctrl-C is heard and progress shown ten times a second."""

START_S = 5.0
"""Seconds a thread may take to come to life on a busy machine."""

PATIENCE_S = 10.0
"""Seconds after a stop in which further interrupts wait too: a process that ends under a native
call is aborted by C++. Calls stop within a tenth of a second; one that does not is stuck."""

Result = TypeVar("Result")


_cancel: ContextVar[threading.Event | None] = ContextVar("apex_native_cancel", default=None)


@contextmanager
def cancellable(cancel: threading.Event | None) -> Iterator[None]:
    """Raise Cancelled in this thread's native calls inside the block once the event is set.

    With None an outer block's event stays in force.
    """
    token = None if cancel is None else _cancel.set(cancel)
    try:
        yield
    finally:
        if token is not None:
            _cancel.reset(token)


def check_cancelled() -> None:
    """Raise Cancelled if the event of the `cancellable` block around this call is set."""
    cancel = _cancel.get()
    if cancel is not None and cancel.is_set():
        raise Cancelled("stopped by the caller")


class Call(Generic[Result]):
    """One call in a thread of its own, its result or its exception kept."""

    def __init__(self, call: Callable[[], Result]) -> None:
        """Not started yet."""
        self._call = call
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="apex-native call", daemon=True)
        # Waited for instead of the thread: a join that Ctrl-C interrupts makes CPython up to 3.12
        # believe that the thread has ended, and a second join returns while it still runs.
        self.finished = threading.Event()

    def start(self) -> None:
        """Begin."""
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
            self._wait_through_interrupts()

    def _wait_through_interrupts(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.finished.wait()
            except KeyboardInterrupt:  # `timeout` sends two signals, people press Ctrl-C twice
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def result(self) -> Any:
        """Of a call that is finished: what it gave; raises what it raised."""
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
    does, and so does the event of `cancellable`. Returns what the call returns and raises what it
    raises; after a stop the exception that caused it is raised, not the call's.
    """
    check_cancelled()
    running = Call(call)
    try:
        running.start()
        while not running.finished.wait(POLL_S):
            check_cancelled()
            if tick is not None:
                tick()
    except BaseException:
        stop()
        running.wait_if_started()
        raise
    result: Result = running.result()
    return result
