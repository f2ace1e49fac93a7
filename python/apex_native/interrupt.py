"""Native calls that hear Ctrl-C: the call runs in a thread, the main thread waits and listens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["POLL_S", "run_interruptible"]

POLL_S = 0.1
"""Seconds between looks: Ctrl-C is heard and progress shown ten times a second."""

Result = TypeVar("Result")


class _Call(Generic[Result]):
    """One call in a thread of its own, its result or its exception kept."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._result: Result | None = None
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="apex-native call", daemon=True)

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            self._error = error
        finally:
            self.ended.set()

    def wait_for_end(self) -> None:
        """Wait until the call has ended, or for a second where its thread was never started."""
        while not self.ended.wait(1.0) and self.thread.ident is not None:
            pass

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
    # An event and not join(): Python 3.11 takes a thread for ended when Ctrl-C interrupts a join.
    running = _Call(call)
    try:
        running.thread.start()
        ended = False
        while not ended:
            ended = running.ended.wait(POLL_S)
            if tick is not None:
                tick()
    except BaseException:
        stop()
        running.wait_for_end()
        raise
    result: Result = running.result()
    return result
