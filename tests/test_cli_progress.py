"""Bars of verbs in a terminal: none before there is something to show, none left behind."""

from __future__ import annotations

import io
import sys
import time

import pytest

from apex_native.cli import progress
from apex_native.cli.output import Output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, bar_after_s: float) -> Terminal:
    """In place of stderr; not a fixture, because pytest puts its own back before the test."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "BAR_AFTER_S", bar_after_s)
    return found


def test_an_error_before_the_first_news_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, 3600.0)
    with pytest.raises(ValueError, match="early"), progress.show_share(Output(), "writing x.gguf"):
        raise ValueError("early")
    assert shown.getvalue() == ""


def test_news_show_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, 3600.0)
    with progress.show_share(Output(), "writing x.gguf") as show:
        assert show is not None
        show(1, 2, "half")
    assert "writing x.gguf" in shown.getvalue()


def test_a_long_silence_shows_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, 0.0)
    with progress.show_share(Output(), "writing x.gguf"):
        while "writing x.gguf" not in shown.getvalue():
            time.sleep(0.001)
    assert shown.getvalue().endswith("\x1b[2K")  # and is taken away
