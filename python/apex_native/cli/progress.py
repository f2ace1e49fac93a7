"""How far a run is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex_native.cli.output import Output

if TYPE_CHECKING:
    from apex_native.imatrix import ImatrixProgress
    from apex_native.quantize import Progress

__all__ = ["PLAIN_EVERY_S", "imatrix_progress", "quantize_progress"]

PLAIN_EVERY_S = 5.0
"""Seconds between lines in a log: often enough to see that it lives."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """Done of total, in any unit, and the rest in words."""

    done: int
    total: int
    state: str


@contextmanager
def quantize_progress(out: Output, label: str) -> Iterator[Callable[[Progress], None] | None]:
    """The callback for `quantize_model`, None when quiet."""
    with _display(out, label) as show:
        yield None if show is None else lambda progress: show(_quantize_state(progress))


@contextmanager
def imatrix_progress(out: Output, label: str) -> Iterator[Callable[[ImatrixProgress], None] | None]:
    """The callback for `collect_imatrix`, None when quiet."""
    with _display(out, label) as show:
        yield None if show is None else lambda progress: show(_imatrix_state(progress))


@contextmanager
def _display(out: Output, label: str) -> Iterator[Callable[[_Shown], None] | None]:
    if out.quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(label) as show:
            yield show
    else:
        yield _lines(out, label)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[_Shown], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    # Speed and time left are ours: rich would count resumed work as speed.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(label, total=None, state="")

        def show(shown: _Shown) -> None:
            bar.update(task, total=shown.total, completed=shown.done, state=shown.state)

        yield show


def _lines(out: Output, label: str) -> Callable[[_Shown], None]:
    last = time.monotonic()

    def show(shown: _Shown) -> None:
        nonlocal last
        if time.monotonic() - last < PLAIN_EVERY_S:
            return
        last = time.monotonic()
        share = shown.done / shown.total if shown.total else 1.0
        out.note(f"{label}: {share:.0%}, {shown.state}")

    return show


def _quantize_state(progress: Progress) -> _Shown:
    state = (
        f"{progress.tensors_done}/{progress.n_tensors} tensors, "
        f"{progress.bytes_per_s / 1e6:.0f} MB/s, ETA {_eta(progress.eta_s)}"
    )
    return _Shown(progress.bytes_done, progress.n_bytes, state)


def _imatrix_state(progress: ImatrixProgress) -> _Shown:
    state = (
        f"{progress.chunks_done}/{progress.n_chunks} chunks, "
        f"{progress.tokens_per_s:,.0f} tokens/s, ETA {_eta(progress.eta_s)}"
    )
    return _Shown(progress.chunks_done, progress.n_chunks, state)


def _eta(seconds: float | None) -> str:
    return "--:--" if seconds is None else _clock(seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
