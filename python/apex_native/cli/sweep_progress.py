"""A sweep as it goes: all jobs as one bar with the time left, and the best candidates so far."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apex_native.cli.output import Output
from apex_native.cli.progress import eta_text, show_share
from apex_native.printable import printable

if TYPE_CHECKING:
    from apex_native.sweeps import SweepProgress
    from apex_native.sweeps.progress import ShowSweep

__all__ = ["sweep_progress"]

ROWS = 8
"""Of the table: the leaders, on any terminal."""

CELLS = 24


@contextmanager
def sweep_progress(out: Output) -> Iterator[ShowSweep | None]:
    """The callback for `sweep`: a live table in a terminal, a line now and then elsewhere."""
    if out.quiet or not sys.stderr.isatty():
        with show_share(out, "sweeping") as show:
            if show is None:
                yield None
                return
            yield lambda progress: show(
                round(1000 * progress.share), 1000, f"{progress.state}, {eta_text(progress.eta_s)}"
            )
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda progress: live.update(_picture(progress, console.width), refresh=True)


def _picture(progress: SweepProgress, width: int) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    full = round(progress.share * CELLS)
    bar = "█" * full + "░" * (CELLS - full)
    words = f"{bar} {progress.share:4.0%}  {_counts(progress)}, {eta_text(progress.eta_s)}"
    line = Text(words, no_wrap=True, overflow="ellipsis")
    if not progress.best:
        return line
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", width=min(width, 100))
    table.add_column("best so far", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("GiB", justify="right")
    table.add_column("KLD mean", justify="right")
    has_texts = len({row.text for row in progress.best}) > 1
    for row in progress.best[:ROWS]:
        name = f"{row.name} ({row.text})" if has_texts else row.name
        table.add_row(printable(name), f"{row.nbytes / (1 << 30):.3f}", f"{row.kld:.5f}")
    return Group(line, table)


def _counts(progress: SweepProgress) -> str:
    words = f"{progress.n_known + progress.n_done}/{progress.n_jobs} jobs"
    if progress.n_workers > 1:
        words += f", {progress.n_workers} workers"
    return words + (f", {progress.n_failed} failed" if progress.n_failed else "")
