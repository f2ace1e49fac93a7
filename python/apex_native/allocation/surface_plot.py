"""A picture of what sizes and speeds cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from apex_native.errors import OutputError

__all__ = ["save_surface"]


def save_surface(points: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw a report's ``surface`` (PNG, SVG or PDF by suffix): KLD over speed, a line a size.

    Raises OutputError where it cannot be written or matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError("a picture needs matplotlib; `pip install matplotlib`") from error
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for budget in dict.fromkeys(point["budget"] for point in points):
        line = [point for point in points if point["budget"] == budget]
        axes.plot(
            [point["speed"]["generate"] for point in line],
            [point["kld"] for point in line],
            marker="o",
            label=f"{budget:,} bytes",
        )
    axes.set_yscale("log")
    axes.set_xlabel("predicted tokens per second, generating")
    axes.set_ylabel("predicted KLD from the source, nats")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error
