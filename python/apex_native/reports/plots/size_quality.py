"""KLD against size with its frontier, and perplexity against size: one labelled point a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.reports.frontier import kld_frontier
from apex_native.reports.kinds import file_kind
from apex_native.reports.models import by_size, noise_floor_line, text_conditions
from apex_native.reports.plots.canvas import GREY, new_figure
from apex_native.reports.plots.labels import LabelledPoint, place_labels
from apex_native.reports.plots.scatter import (
    GIB,
    draw_legend,
    draw_points,
    set_limits,
    size_axis,
    square_height,
)
from apex_native.reports.plots.text import model_labels
from apex_native.results import Candidate, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw_kld_against_size",
    "draw_perplexity",
    "missing_kld_against_size",
    "missing_perplexity",
]


_LOG_FROM = 1.6
"""A file that lost much would squeeze all others into a line otherwise."""


def missing_kld_against_size(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    return _too_few("KLD against size", "KLD above 0", len(_with_kld(results)))


def missing_perplexity(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    return _too_few("Perplexity against size", "perplexity", len(_with_perplexity(results)))


def _too_few(plot: str, metric: str, n: int) -> str | None:
    if n >= 2:
        return None
    there = f"{'is' if n == 1 else 'are'} {n or 'none'}"
    return f"{plot} needs two candidates with size and {metric}; there {there}."


def _with_kld(results: Results) -> list[Candidate]:
    """What a logarithmic axis can show."""
    found = by_size(results.candidates)
    return [c for c in found if c.bytes and c.kld_mean is not None and c.kld_mean > 0]


def draw_kld_against_size(results: Results) -> Figure:
    """Mean KLD, logarithmic, against GiB; a line joins the files that no smaller one beats."""
    candidates = _with_kld(results)
    labels = model_labels(results)
    figure = new_figure(
        *(9.0, square_height(len(candidates))),
        title="KL divergence against size (lower left is better)",
        conditions=text_conditions(results),
        note="The line is the frontier: on it are the files that no other file beats in both size "
        "and mean KLD. Bars are one standard error. " + noise_floor_line(results.noise_floor),
    )
    axes = figure.add_subplot()
    points = [_kld_point(candidate, labels[candidate.name]) for candidate in candidates]
    frontier = _frontier_path(candidates)
    axes.plot(
        *zip(*frontier, strict=True), color="#a8a8a8", linewidth=1.2, label="frontier", zorder=1
    )
    draw_points(axes, points, [file_kind(candidate.name) for candidate in candidates])
    size_axis(axes, points)
    set_limits(axes, "y", [end for p in points for end in (p.low, p.high)], log=True)
    axes.set_ylabel("Mean KLD (nats, logarithmic)")
    draw_legend(axes)
    place_labels(axes, points, path=frontier)
    return figure


def _kld_point(candidate: Candidate, label: str) -> LabelledPoint:
    assert candidate.bytes is not None
    assert candidate.kld_mean is not None
    mean, error = candidate.kld_mean, candidate.kld_se or 0.0
    # An error as large as the mean has no lower end on a logarithmic axis.
    low = mean - error if error < mean else mean / 2
    return LabelledPoint(candidate.bytes / GIB, mean, label, low, mean + error)


def _frontier_path(candidates: list[Candidate]) -> list[tuple[float, float]]:
    """A staircase: between two files on it, the larger one still has the smaller one's KLD."""
    corners: list[tuple[float, float]] = []
    for candidate in kld_frontier(candidates):
        x, y = (candidate.bytes or 0) / GIB, candidate.kld_mean or 0.0
        corners += [(x, corners[-1][1])] if corners else []
        corners.append((x, y))
    return corners


def _with_perplexity(results: Results) -> list[Candidate]:
    found = by_size(results.candidates)
    return [c for c in found if c.bytes and c.ppl is not None and c.ppl > 0]


def draw_perplexity(results: Results) -> Figure:
    """Perplexity against GiB, with the error of its difference from the reference, a line."""
    candidates = _with_perplexity(results)
    labels = model_labels(results)
    paired = any(c.ln_ppl_ratio_se for c in candidates)
    figure = new_figure(
        *(9.0, square_height(len(candidates))),
        title="Perplexity against size",
        conditions=text_conditions(results),
        note="Bars are one standard error of the difference from the reference: both scored the "
        "same tokens, so it is far smaller than the error of either perplexity."
        if paired
        else "Perplexities without a paired error have no bars; see the verdicts.",
    )
    axes = figure.add_subplot()
    points = [_perplexity_point(candidate, labels[candidate.name]) for candidate in candidates]
    draw_points(axes, points, [file_kind(candidate.name) for candidate in candidates])
    reference = results.reference
    level = None if reference is None else reference.ppl
    values = [end for p in points for end in (p.low, p.high)] + ([level] if level else [])
    size_axis(axes, points)
    set_limits(axes, "y", values, log=min(values) > 0 and max(values) > _LOG_FROM * min(values))
    axes.set_ylabel("Perplexity (lower is better)")
    lines = []
    if reference is not None and level is not None and level > 0:
        _draw_reference(axes, labels[reference.name], level)
        lines.append(level)
    draw_legend(axes, columns=2)
    place_labels(axes, points, horizontal_lines=lines)
    return figure


def _perplexity_point(candidate: Candidate, label: str) -> LabelledPoint:
    """The bar is the paired error: of ln(PPL / PPL of the reference), times PPL."""
    assert candidate.bytes is not None
    assert candidate.ppl is not None
    error = candidate.ppl * (candidate.ln_ppl_ratio_se or 0.0)
    low = candidate.ppl - error if candidate.ppl > error else candidate.ppl
    return LabelledPoint(candidate.bytes / GIB, candidate.ppl, label, low, candidate.ppl + error)


def _draw_reference(axes: Axes, label: str, level: float) -> None:
    """A dashed line, named in the legend."""
    axes.axhline(
        level,
        color=GREY,
        linestyle="--",
        linewidth=1,
        label=f"{label} (reference): {level:.4g}",
    )
