"""How far a run is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apex_native.cli.output import Output

if TYPE_CHECKING:
    from apex_native.quantize import Progress

__all__ = ["PLAIN_EVERY_S", "quantize_progress"]

PLAIN_EVERY_S = 5.0
"""Seconds between lines in a log: often enough to see that it lives."""


@contextmanager
def quantize_progress(out: Output, label: str) -> Iterator[Callable[[Progress], None] | None]:
    """The callback for `quantize_model`, None when quiet."""
    if out.quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(label) as callback:
            yield callback
    else:
        yield _lines(out, label)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    # Speed and time left are ours: rich would count resumed bytes as speed.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(label, total=None, state="")

        def update(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.n_bytes,
                completed=progress.bytes_done,
                state=_state(progress),
            )

        yield update


def _lines(out: Output, label: str) -> Callable[[Progress], None]:
    last = time.monotonic()

    def update(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < PLAIN_EVERY_S:
            return
        last = time.monotonic()
        share = progress.bytes_done / progress.n_bytes if progress.n_bytes else 1.0
        out.note(f"{label}: {share:.0%}, {_state(progress)}")

    return update


def _state(progress: Progress) -> str:
    eta = "--:--" if progress.eta_s is None else _clock(progress.eta_s)
    return (
        f"{progress.tensors_done}/{progress.n_tensors} tensors, "
        f"{progress.bytes_per_s / 1e6:.0f} MB/s, ETA {eta}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
