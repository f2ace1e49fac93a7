"""Windows of second moments of which the second is collected only once it is told to stop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from apex_native.imatrix import Hessian, LayeredHessian

__all__ = ["calls_running", "hold_second_window"]


def hold_second_window(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the second window's turn has come; collecting it then hears the stop."""
    real, began, seen = LayeredHessian._collect, threading.Event(), []

    def collect(self: LayeredHessian, window: Any, start: Any, record: Any, cancel: Any) -> Hessian:
        seen.append(window)
        if len(seen) == 2:
            began.set()
            assert cancel.wait(60)
        return real(self, window, start, record, cancel)

    monkeypatch.setattr(LayeredHessian, "_collect", collect)
    return began


def calls_running() -> int:
    """Threads of native calls."""
    return sum(thread.name == "apex-native call" for thread in threading.enumerate())
