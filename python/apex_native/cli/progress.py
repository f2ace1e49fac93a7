"""How far a run is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from apex_native.cli.output import Output

if TYPE_CHECKING:
    from apex_native.imatrix import ImatrixProgress
    from apex_native.quantization import Progress

__all__ = [
    "PLAIN_EVERY_S",
    "ShowShare",
    "eta_text",
    "imatrix_progress",
    "quantize_progress",
    "show_share",
    "step_progress",
]

BAR_AFTER_S = 0.5
"""Seconds without news until a bar says that something is going on: errors come before."""

PLAIN_EVERY_S = 5.0
"""Seconds between lines in a log: often enough to see that it lives."""


class ShowShare(Protocol):
    """Takes what is done, of how much, a few words on the state, and another label if need be."""

    def __call__(self, done: int, total: int, state: str, label: str | None = None) -> None:
        """Show it."""
        ...


@contextmanager
def show_share(out: Output, label: str) -> Iterator[ShowShare | None]:
    """Shows how far a run is; None when quiet."""
    if out.quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(label) as show:
            yield show
    else:
        yield _lines(out, label)


@contextmanager
def quantize_progress(out: Output, label: str) -> Iterator[Callable[[Progress], None] | None]:
    """The callback for `quantize_model`, None when quiet."""
    with show_share(out, label) as show:
        if show is None:
            yield None
        else:
            yield lambda progress: show(progress.bytes_done, progress.n_bytes, _state(progress))


@contextmanager
def imatrix_progress(out: Output) -> Iterator[Callable[[ImatrixProgress], None] | None]:
    """The callback for `calibrate`, None when quiet."""
    with show_share(out, "calibrating") as show:
        if show is None:
            yield None
        else:
            yield lambda progress: _show_imatrix(show, progress)


def _show_imatrix(show: ShowShare, progress: ImatrixProgress) -> None:
    text = progress.text
    if text is not None:
        state = f"{text.state}, {eta_text(text.eta_s)}"
        return show(text.tokens_done, text.n_tokens, state, "making the text")
    label = "calibrating all experts" if progress.all_experts else "calibrating"
    return show(progress.chunks_done, progress.n_chunks, _imatrix_state(progress), label)


@contextmanager
def _bar(label: str) -> Iterator[ShowShare]:
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
    bar = Bar(*columns, console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(label, total=None, state="")
    with _late(bar.start, bar.stop) as start:

        def show(done: int, total: int, state: str, label: str | None = None) -> None:
            # rich leaves a description of None as it is.
            bar.update(task, total=total, completed=done, state=state, description=label)
            start()

        yield show


@contextmanager
def _late(start: Callable[[], None], stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Start something when it is asked for, or after BAR_AFTER_S; stop it in the end if it runs."""
    lock = threading.Lock()
    is_over = is_started = False

    def start_once() -> None:
        nonlocal is_started
        with lock:
            if not (is_over or is_started):
                start()
                is_started = True

    timer = threading.Timer(BAR_AFTER_S, start_once)
    timer.daemon = True
    timer.start()
    try:
        yield start_once
    finally:
        timer.cancel()
        with lock:
            is_over = True
        if is_started:
            stop()


def _lines(out: Output, first_label: str) -> ShowShare:
    last = time.monotonic()

    def show(done: int, total: int, state: str, label: str | None = None) -> None:
        nonlocal last
        if time.monotonic() - last < PLAIN_EVERY_S:
            return
        last = time.monotonic()
        out.note(
            f"{label or first_label}: {done / total if total else 1.0:.0%}"
            + (f", {state}" if state else "")
        )

    return show


def _state(progress: Progress) -> str:
    return (
        f"{progress.tensors_done}/{progress.n_tensors} tensors, "
        f"{progress.bytes_per_s / 1e6:.0f} MB/s, {eta_text(progress.eta_s)}"
    )


def _imatrix_state(progress: ImatrixProgress) -> str:
    return (
        f"{progress.chunks_done}/{progress.n_chunks} chunks, "
        f"{progress.tokens_per_s:,.0f} tokens/s, {eta_text(progress.eta_s)}"
    )


def eta_text(seconds: float | None) -> str:
    """``ETA 1:02:03``; dashes while it is unknown."""
    return f"ETA {'--:--' if seconds is None else _clock(seconds)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def step_progress(out: Output) -> Iterator[Callable[[str, float], None] | None]:
    """For work of several named steps: takes the step's name and the share of it that is done."""
    if out.quiet:
        yield None
        return
    with ExitStack() as stack:
        current: list[str] = []
        shown: list[ShowShare | None] = [None]

        def update(step: str, share: float) -> None:
            if current != [step]:
                if shown[0] is not None:  # a step is done when the next one begins
                    shown[0](1000, 1000, "")
                stack.close()
                current[:] = [step]
                shown[0] = stack.enter_context(show_share(out, step))
            if shown[0] is not None:
                shown[0](round(1000 * share), 1000, "")

        yield update
        if shown[0] is not None:
            shown[0](1000, 1000, "")
