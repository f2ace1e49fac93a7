"""Axes that stay readable over many powers of ten."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["log_axis", "log_ticks"]

_MOST_TICKS = 9

_STEPS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)
"""Within each power of ten, coarse to fine; the last are at most a factor of 1.25 apart."""


def log_ticks(low: float, high: float) -> list[float]:
    """Two to nine round numbers from low to high, which must be 1.6 times low or more."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _STEPS:
        ticks = [
            tick for e in exponents for m in steps if low <= (tick := float(f"{m}e{e}")) <= high
        ]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]


def log_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """Make an axis logarithmic so that it holds all (positive) values with room at both ends."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    known = list(values)
    low, high = min(known), max(known)
    # A twelfth of the axis, and never less than a factor of 1.3 on both sides.
    room = max(1.3, (high / low) ** (1 / 12))
    low, high = low / room, high * room
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axis: Axis = axes.xaxis
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axis = axes.yaxis
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
