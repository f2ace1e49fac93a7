"""How far a benchmark is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apex_native.cli.output import Output
from apex_native.cli.progress import PLAIN_EVERY_S

__all__ = ["Show", "bench_progress"]

Show = Callable[[str, float, "float | None"], None]
"""Called with what runs, the share that is done, and the seconds to go, if known."""


@contextmanager
def bench_progress(out: Output) -> Iterator[Show | None]:
    """The function to call as often as one likes; None when quiet."""
    if out.quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines(out)


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=1.0, state="")

        def show(label: str, share: float, eta_s: float | None) -> None:
            bar.update(task, description=label, completed=share, state=_eta(eta_s))

        yield show


def _lines(out: Output) -> Show:
    last = time.monotonic()

    def show(label: str, share: float, eta_s: float | None) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_EVERY_S:
            last = time.monotonic()
            out.note(f"{label}: {share:.0%}, {_eta(eta_s)}")

    return show


def _eta(seconds: float | None) -> str:
    if seconds is None:
        return "ETA --:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"ETA {minutes}:{rest:02}"
