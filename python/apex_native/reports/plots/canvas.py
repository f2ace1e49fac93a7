"""How every plot of a report looks: size, fonts, colours, a heading that says what was measured."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apex_native.reports.plots.text import FONT, clipped, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ALARM", "DPI", "GREY", "PALETTE", "new_figure", "png_bytes", "style"]

DPI = 150

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers tell apart; yellow fades on white."""

GREY = "#6b6b6b"

ALARM = "#D55E00"
"""What must not be overlooked: always together with words."""

_STYLE: Any = {
    "font.family": FONT,
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.markersize": 6,
    "hatch.linewidth": 0.8,
}

_TITLE_SIZE, _TEXT_SIZE = 13, 9
_MARGIN = 0.12
_LINE = 1.35 / 72
"""Inches of line height for each point of size."""


@contextmanager
def style() -> Iterator[None]:
    """Our settings instead of the user's matplotlibrc, while a plot is drawn."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(
    width: float, height: float, *, title: str, conditions: str, note: str = ""
) -> Figure:
    """An empty figure of width by height inches: height is the plot's, heading and note add to it.

    conditions says on what the numbers were measured; note explains axes and marks. All three are
    cut where a file says more than fits a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    room = width - 2 * _MARGIN
    blocks = [
        (wrapped(clipped(title, 200), room, _TITLE_SIZE, bold=True), _TITLE_SIZE, True),
        (wrapped(clipped(conditions, 400), room, _TEXT_SIZE), _TEXT_SIZE, False),
    ]
    notes = wrapped(clipped(note, 1000), room, _TEXT_SIZE - 1) if note else []
    above = sum(len(lines) * size * _LINE for lines, size, _ in blocks) + 2 * _MARGIN
    below = len(notes) * (_TEXT_SIZE - 1) * _LINE + (_MARGIN if notes else 0)
    total = height + above + below
    figure = Figure(figsize=(width, total), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine(
        "constrained", rect=(0, below / total, 1, height / total), w_pad=_MARGIN, h_pad=_MARGIN / 2
    )
    y = total - _MARGIN
    for lines, size, bold in blocks:
        figure.text(
            *(_MARGIN / width, y / total, "\n".join(lines)),
            va="top",
            size=size,
            weight="bold" if bold else "normal",
            color="black" if bold else GREY,
            linespacing=1.2,
            in_layout=False,
        )
        y -= len(lines) * size * _LINE
    if notes:
        figure.text(
            *(_MARGIN / width, _MARGIN / 2 / total, "\n".join(notes)),
            va="bottom",
            size=_TEXT_SIZE - 1,
            color=GREY,
            linespacing=1.2,
            in_layout=False,
        )
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()
