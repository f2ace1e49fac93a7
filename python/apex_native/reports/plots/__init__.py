"""The plots of a report. matplotlib is imported when one is drawn, not before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex_native.reports.plots.accuracy import draw_accuracy, missing_accuracy
from apex_native.reports.plots.canvas import png_bytes, style
from apex_native.reports.plots.divergence import draw_divergence, missing_divergence
from apex_native.reports.plots.router import draw_router, missing_router
from apex_native.reports.plots.size_quality import (
    draw_kld_against_size,
    draw_perplexity,
    missing_kld_against_size,
    missing_perplexity,
)
from apex_native.reports.plots.size_speed import draw_speed, missing_speed
from apex_native.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "Plot"]


MOST_CANDIDATES = 60


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: the stem of its file, what it shows, why it may be missing, how it is drawn."""

    name: str
    shows: str
    missing: Callable[[Results], str | None]
    draw: Callable[[Results], Figure]

    def reason_missing(self, results: Results) -> str | None:
        """A sentence that says why the plot cannot be drawn; None if it can."""
        n = len(results.candidates)
        if n > MOST_CANDIDATES:
            return f"{self.shows}: {n} candidates are too many for one plot; report fewer files."
        return self.missing(results)

    def png(self, results: Results) -> bytes:
        """The plot as PNG; `reason_missing` must have said None."""
        with style():
            return png_bytes(self.draw(results))


PLOTS = (
    Plot(
        "kld_vs_size",
        "Mean KLD against size in GiB, with the frontier",
        missing_kld_against_size,
        draw_kld_against_size,
    ),
    Plot("ppl_vs_size", "Perplexity against size in GiB", missing_perplexity, draw_perplexity),
    Plot("kld", "KLD mean and 99.9 % of every candidate", missing_divergence, draw_divergence),
    Plot(
        "router_agreement",
        "Router agreement with the reference by layer",
        missing_router,
        draw_router,
    ),
    Plot("accuracy", "Accuracy with 95 % intervals, task by task", missing_accuracy, draw_accuracy),
    Plot("size_vs_speed", "Tokens per second against size in GiB", missing_speed, draw_speed),
)
