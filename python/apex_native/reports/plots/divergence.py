"""KLD of every candidate: mean and 99.9 %, on a logarithmic axis, beside the noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.reports.models import noise_floor_line, text_conditions
from apex_native.reports.plots.axes import log_axis
from apex_native.reports.plots.canvas import PALETTE, new_figure
from apex_native.reports.plots.text import model_labels
from apex_native.results import Candidate, NoiseFloor, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_divergence", "missing_divergence"]

_ROW_INCHES = 0.3

_FAR_BELOW = 1e4
"""A noise floor that much below everything would squeeze all the rest to one side."""


def missing_divergence(results: Results) -> str | None:
    """Why the plot cannot be drawn; None if it can."""
    if not _measured(results):
        return "The comparison of KLD needs a candidate that differs from its reference."
    return None


def _measured(results: Results) -> list[Candidate]:
    """Those with a mean that a logarithmic axis can show, the best first."""
    found = [c for c in results.candidates if c.kld_mean is not None and c.kld_mean > 0]
    return sorted(found, key=lambda candidate: candidate.kld_mean or 0.0)


def draw_divergence(results: Results) -> Figure:
    """One row a candidate, sorted by the mean."""
    candidates = _measured(results)
    labels = model_labels(results)
    floor = results.noise_floor
    figure = new_figure(
        *(9.0, _ROW_INCHES * len(candidates) + 1.4),
        title="KL divergence from the reference (lower is better)",
        conditions=text_conditions(results),
        note=_note(results),
    )
    axes = figure.add_subplot()
    _draw_rows(axes, candidates)
    axes.set_yticks(range(len(candidates)), [labels[c.name] for c in candidates])
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    ends = _ends(candidates)
    near = _floor_values(floor, ends)
    log_axis(axes, "x", [*ends, *near])
    if floor is not None:
        _draw_floor(axes, floor, near)
    axes.set_xlabel("KLD (nats, logarithmic)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=4, fontsize=8)
    return figure


def _note(results: Results) -> str:
    note = f"Bars are one standard error of the mean. {noise_floor_line(results.noise_floor)}"
    equal = [c.name for c in results.candidates if c.kld_mean is not None and c.kld_mean <= 0]
    if equal:
        note += f" Not above 0 and not drawn: {', '.join(equal)}."
    return note


def _draw_rows(axes: Axes, candidates: list[Candidate]) -> None:
    rows = range(len(candidates))
    means = [c.kld_mean or 0.0 for c in candidates]
    for row, candidate, mean in zip(rows, candidates, means, strict=True):
        low, high = _interval(candidate)
        axes.hlines(row, low, high, color=PALETTE[0], linewidth=1.5)
        if candidate.kld_p999 is not None and candidate.kld_p999 > 0:
            axes.hlines(row, mean, candidate.kld_p999, color="#dddddd", linewidth=1, zorder=1)
    axes.plot(means, rows, "o", color=PALETTE[0], label="mean")
    tails = [(c.kld_p999, row) for c, row in zip(candidates, rows, strict=True) if c.kld_p999]
    if tails:
        axes.plot(
            [x for x, _ in tails], [y for _, y in tails], "D", color=PALETTE[1], label="99.9 %"
        )


def _interval(candidate: Candidate) -> tuple[float, float]:
    mean, error = candidate.kld_mean or 0.0, candidate.kld_se or 0.0
    # An error as large as the mean has no lower end on a logarithmic axis.
    return (mean - error if error < mean else mean / 2), mean + error


def _ends(candidates: list[Candidate]) -> list[float]:
    values = [end for candidate in candidates for end in _interval(candidate)]
    return values + [c.kld_p999 for c in candidates if c.kld_p999 is not None and c.kld_p999 > 0]


def _floor_values(floor: NoiseFloor | None, ends: list[float]) -> list[float]:
    """What of the noise floor is near enough to be drawn."""
    if floor is None:
        return []
    values = (floor.kld_mean, floor.kld_p999)
    return [v for v in values if v is not None and v > min(ends) / _FAR_BELOW]


def _draw_floor(axes: Axes, floor: NoiseFloor, drawn: list[float]) -> None:
    for value, color, style, name in (
        (floor.kld_mean, PALETTE[0], "--", "mean"),
        (floor.kld_p999, PALETTE[1], ":", "99.9 %"),
    ):
        if value in drawn:
            axes.axvline(
                value, color=color, linestyle=style, linewidth=1.4, label=f"noise floor, {name}"
            )
