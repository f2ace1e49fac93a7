"""SIGTERM, as job schedulers and ``docker stop`` send it, heard the way Ctrl-C is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["EXIT_INTERRUPTED", "EXIT_TERMINATED", "Terminated", "heard_as_interrupt"]

EXIT_INTERRUPTED = 130
"""What shells give a command that Ctrl-C ended: 128 and SIGINT's number."""

EXIT_TERMINATED = 143
"""128 and SIGTERM's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: what hears Ctrl-C hears it, and what keeps work on Ctrl-C keeps it."""


@contextmanager
def heard_as_interrupt() -> Iterator[None]:
    """Raise Terminated in the main thread when SIGTERM arrives; the old handler comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _raise(*_: object) -> None:
    raise Terminated
