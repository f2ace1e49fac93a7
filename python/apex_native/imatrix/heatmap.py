"""A picture of expert coverage: layers down, experts across."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from apex_native.errors import OutputError
from apex_native.imatrix.coverage import Coverage

__all__ = ["save_heatmap"]

MOST_FOLD = 6.0
"""log2 of the largest ratio the colours tell apart: 64 times more, or fewer, than the mean."""

FEW_EXPERTS = 16
"""Up to so many the token counts fit into the cells."""


def save_heatmap(coverage: Coverage, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write a picture (PNG, SVG or PDF by suffix): tokens of each expert over the layer's mean.

    Logarithmic and centred on 1; an expert no token reached is black. Raises OutputError where it
    cannot be written, where there are no experts, or where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            "a heatmap needs matplotlib; install it with `pip install matplotlib`"
        ) from error
    if not coverage.routers:
        raise OutputError("there are no experts to draw; a heatmap is for expert models")
    n_experts = max(router.n_experts for router in coverage.routers)
    n_layers = len(coverage.routers)
    figure = Figure(
        figsize=(min(4 + 0.12 * n_experts, 20) + 1.5, min(1.6 + 0.32 * n_layers, 24)),
        layout="constrained",
    )
    axes = figure.subplots()
    _draw(figure, axes, coverage, n_experts)
    axes.set_title(title or "Tokens per expert")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def _draw(figure: Any, axes: Any, coverage: Coverage, n_experts: int) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import TwoSlopeNorm

    cells = np.full((len(coverage.routers), n_experts), np.nan)
    for row, router in enumerate(coverage.routers):
        mean = max(router.counts.mean(), 1e-300)
        with np.errstate(divide="ignore"):
            cells[row, : router.n_experts] = np.log2(router.counts / mean)
    unseen = np.isneginf(cells)
    finite = cells[np.isfinite(cells)]
    reach = min(max(float(np.abs(finite).max()) if finite.size else 1.0, 1.0), MOST_FOLD)
    colours = colormaps["RdBu_r"].with_extremes(bad="white", under="black")
    image = axes.imshow(
        np.where(unseen, -2 * reach, np.clip(cells, -reach, reach)),
        cmap=colours,
        norm=TwoSlopeNorm(0.0, -reach, reach),
        aspect="auto",
        interpolation="nearest",
    )
    bar = figure.colorbar(image, ax=axes, extend="min")
    bar.set_label("log2(tokens / mean), black: never hit")
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    axes.set_yticks(range(len(coverage.routers)), [str(r.layer) for r in coverage.routers])
    if n_experts > FEW_EXPERTS:
        return
    axes.set_xticks(range(n_experts))
    for row, router in enumerate(coverage.routers):
        for column, count in enumerate(router.counts):
            dark = unseen[row, column] or abs(cells[row, column]) > reach / 2
            axes.text(
                column, row, f"{int(count):,}", ha="center", va="center", fontsize=7,
                color="white" if dark else "black",
            )  # fmt: skip
