"""A progress bar for whoever calls the library: in a terminal, in a notebook, in a log.

It draws when it is called and has no thread: an exception leaves nothing running behind it.
"""

from __future__ import annotations

import html
import shutil
import sys
import time
from typing import Any, Protocol, TextIO

from apex_native.closable import Closable
from apex_native.printable import printable

__all__ = ["ProgressBar", "Snapshot"]

_EVERY_S = {"terminal": 0.1, "notebook": 0.25, "log": 5.0}
_CELLS = 24


class Snapshot(Protocol):
    """What every ``progress=`` of this package hands over."""

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        ...

    @property
    def state(self) -> str:
        """What is at work, in a few words."""
        ...

    @property
    def eta_s(self) -> float | None:
        """Seconds left; None while unknown."""
        ...


class ProgressBar(Closable):
    """A ready ``progress=`` for `quantize`, `calibrate`, `evaluate`, `build_corpus`, `bench`.

        apex.quantize(model, plan, "mini.gguf", progress=apex.ProgressBar("quantizing"))

    A line that redraws itself in a terminal, a bar in a notebook, elsewhere a line every five
    seconds. It ends with a full bar; as a context manager it also ends its line if an exception
    ends the work.
    """

    def __init__(self, label: str = "", *, file: TextIO | None = None) -> None:
        """Text before the bar; where to write, default stderr."""
        self._label = printable(label)
        self._file = file if file is not None else sys.stderr
        self._where = _where(self._file, chosen=file is not None)
        self._next = 0.0 if self._where != "log" else time.monotonic() + _EVERY_S["log"]
        self._width = 0
        self._is_full = False
        self._handle: Any = None

    def __call__(self, progress: Snapshot) -> None:
        """Draw, unless it was drawn a moment ago and there is more to come; a full bar once."""
        share = min(max(progress.share, 0.0), 1.0)
        was_full, self._is_full = self._is_full, share >= 1
        now = time.monotonic()
        if (was_full and self._is_full) or (now < self._next and share < 1):
            return
        self._next = now + _EVERY_S[self._where]
        text = f"{share:4.0%} {printable(progress.state)}"
        if progress.eta_s is not None and share < 1:
            text += f", {_clock(progress.eta_s)} left"
        if self._where == "notebook":
            self._draw_html(share, text)
        elif self._where == "terminal":
            self._draw_line(share, text, done=share >= 1)
        else:
            self._file.write(f"{self._label}{': ' if self._label else ''}{text.strip()}\n")
            self._file.flush()

    def close(self) -> None:
        """End the line."""
        if self._width:
            self._file.write("\n")
            self._file.flush()
            self._width = 0

    def _draw_line(self, share: float, text: str, *, done: bool) -> None:
        full = round(share * _CELLS)
        label = f"{self._label} " if self._label else ""
        line = f"{label}{'█' * full}{'░' * (_CELLS - full)} {text}"
        line = line[: max(1, shutil.get_terminal_size().columns - 1)]
        blanks = " " * (self._width - len(line))
        self._file.write(f"\r{line}{blanks}" + ("\n" if done else ""))
        self._file.flush()
        self._width = 0 if done else len(line)

    def _draw_html(self, share: float, text: str) -> None:
        from IPython.display import HTML, display

        body = HTML(
            f"{html.escape(self._label)} <progress value='{share:.4f}' max='1'></progress> "
            f"{html.escape(text)}"
        )
        if self._handle is None:
            self._handle = display(body, display_id=True)
        else:
            self._handle.update(body)
        if share >= 1:
            self._handle = None


def _where(file: TextIO, *, chosen: bool) -> str:
    if not chosen and _in_notebook():
        return "notebook"
    return "terminal" if file.isatty() else "log"


def _in_notebook() -> bool:
    """True in a kernel that shows HTML (Jupyter, Colab, VS Code), not in IPython's terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
