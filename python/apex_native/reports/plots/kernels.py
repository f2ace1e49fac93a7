"""Kernel speeds of all types, and what memory would allow each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_native.printable import counted
from apex_native.reports.kernels import KernelLine, MeasuredKernel, kernel_lines, roofline_share
from apex_native.reports.plots.axes import log_axis
from apex_native.reports.plots.canvas import GREY, PALETTE, new_figure, png_bytes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["kernel_plot"]

_PANELS = (
    ("Dequantizing", ("to_float", "widen")),
    ("Dequantizing to F16", ("to_half",)),
    ("Dot products", ("vec_dot",)),
    ("Products, 1 column", ("mat_mul_1",)),
    ("Products, 8 columns", ("mat_mul_8",)),
    ("Products, 512 columns", ("mat_mul_512",)),
    ("Quantizing", ("quantize",)),
)

_LINE = 0.24
"""Inches of a type's line: two markers above each other stay apart."""

_BESIDES = 1.4
"""Inches for titles, axis labels and the legend."""

_LEGEND = 0.3

_MOST_TICKS = 5
"""Numbers of up to six characters, below a panel of three inches."""

_PANEL = 2.4
"""Inches of a panel at least."""

_WIDEN_MARKER = "D"


def kernel_plot(rows: Sequence[MeasuredKernel], *, cpu: str, working_set: float) -> bytes:
    """PNG: billions of weights per second of each type and operation, with the memory's limits.

    working_set: bytes that an operation went through, for the heading. Raises ValueError without a
    measured kernel.
    """
    if not any(kernel_lines(rows, row.n_threads) for row in rows):
        raise ValueError("there are no kernels to draw; measure at least one type")
    with style():
        return png_bytes(_draw(rows, cpu, working_set))


def _draw(rows: Sequence[MeasuredKernel], cpu: str, working_set: float) -> Figure:
    threads = sorted({row.n_threads for row in rows})
    lines = kernel_lines(rows, threads[0])
    panels = [p for p in _PANELS if any(row.operation in p[1] for row in rows)]
    figure = new_figure(
        *(max(11.0, _PANEL * len(panels)), _LINE * len(lines) + _BESIDES),
        title="Kernel speed by type",
        conditions=f"{cpu}; working set {working_set / 1e6:,.1f} MB; medians, with lines from the "
        "slowest to the fastest repetition",
        note="A bar marks what memory would allow the type: bytes copied (dequantizing, "
        "quantizing) or read (products) per second over the bytes that a weight moves."
        + (" Diamonds: the faster function of ours." if _has_widen(rows) else ""),
    )
    height = _LINE * len(lines) + _BESIDES - _LEGEND
    grid = figure.add_gridspec(2, len(panels), height_ratios=(height, _LEGEND))
    axes: list[Axes] = []
    for i in range(len(panels)):
        axes.append(figure.add_subplot(grid[0, i], sharey=axes[0] if axes else None))
        axes[i].tick_params(labelleft=i == 0)
    for panel, (title, operations) in zip(axes, panels, strict=True):
        _draw_panel(panel, rows, threads, operations)
        panel.set_title(title)
        panel.set_xlabel("billion weights per second")
    labels = [f"{line.name}  {line.bpw:.4g}" for line in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    axes[0].set_ylabel("type and bits per weight")
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    names = [counted(n, "thread") for n in threads]
    _draw_legend(figure.add_subplot(grid[1, :]), ["GPU"] if _is_gpu(rows) else names)
    return figure


def _is_gpu(rows: Sequence[MeasuredKernel]) -> bool:
    return any(row.operation.startswith("mat_mul") for row in rows)


def _has_widen(rows: Sequence[MeasuredKernel]) -> bool:
    return any(row.operation == "widen" for row in rows)


def _draw_panel(
    axes: Axes,
    rows: Sequence[MeasuredKernel],
    threads: Sequence[int],
    operations: tuple[str, ...],
) -> None:
    values: list[float] = []
    for i, n_threads in enumerate(threads):
        color = PALETTE[i % len(PALETTE)]
        # Thread counts share a type's line without hiding each other.
        offset = (i - (len(threads) - 1) / 2) * 0.5 / len(threads)
        for y, line in enumerate(kernel_lines(rows, n_threads)):
            for row in _kernels(line, operations):
                values += _draw_row(axes, row, rows, y + offset, color)
    log_axis(axes, "x", values)
    _thin_ticks(axes)
    axes.grid(axis="y", visible=True)


def _thin_ticks(axes: Axes) -> None:
    """Keep as many ticks as have room for their numbers in a panel."""
    from matplotlib.ticker import FixedLocator

    ticks = list(axes.get_xticks())
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]))


def _kernels(line: KernelLine, operations: tuple[str, ...]) -> list[MeasuredKernel]:
    return [line.kernels[name] for name in operations if name in line.kernels]


def _draw_row(
    axes: Axes, row: MeasuredKernel, rows: Sequence[MeasuredKernel], y: float, color: str
) -> list[float]:
    """Draws one kernel; returns the x values that must be visible."""
    low, middle, high = (1e-9 * x for x in (min(row.samples), row.median, max(row.samples)))
    marker = _WIDEN_MARKER if row.operation == "widen" else "o"
    axes.plot([low, high], [y, y], color=color, linewidth=1.2)
    axes.plot([middle], [y], marker=marker, color=color, markersize=4.5)
    share = roofline_share(row, rows)
    if share is None:
        return [low, high]
    limit = middle / share
    axes.plot([limit], [y], marker="|", color=color, markersize=7, alpha=0.6)
    return [low, high, limit]


def _draw_legend(axes: Axes, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linewidth=1.2, markersize=4.5, color=PALETTE[i % len(PALETTE)])
        for i in range(len(names))
    ]
    handles.append(Line2D([], [], marker="|", linestyle="", markersize=7, color=GREY))
    labels = [*names, "limit of memory"]
    axes.set_axis_off()
    axes.legend(handles, labels, loc="center", ncols=len(labels))
