"""Text in plots: what the font can draw, how wide it is, and names short enough for a label."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from apex_native.reports.labels import short_names
from apex_native.reports.models import all_models
from apex_native.results import Results

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

__all__ = ["FONT", "clipped", "drawable", "model_labels", "text_width", "wrapped"]

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that a plot looks the same everywhere."""

_CACHE = re.compile(r"\(cache (\S+)\)$")

_MAX_LABEL = 30
"""Characters of a label; a longer one loses its middle, since names differ at their ends."""


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FONT)).get_charmap())


def drawable(text: str) -> str:
    """The text with a question mark for every character that the font does not have."""
    glyphs = _glyphs()
    return "".join(c if c.isprintable() and ord(c) in glyphs else "?" for c in text)


def _properties(size: float, bold: bool) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width in inches of one line of text at a size in points."""
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        text, _properties(size, bold), ismath=False
    )
    return float(width) / 72


def clipped(text: str, n: int) -> str:
    """At most n characters of what the font can draw; an ellipsis says that there was more."""
    text = drawable(text[: n + 1])
    return text if len(text) <= n else f"{text[: n - 1]}…"


def wrapped(text: str, inches: float, size: float, *, bold: bool = False) -> list[str]:
    """Lines no wider than that; a word that is wider is cut."""
    lines = [""]
    for word in drawable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size, bold=bold) <= inches:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if text_width(lines[-1] + char, size, bold=bold) > inches:
                lines.append("")
            lines[-1] += char
    return lines


def model_labels(results: Results) -> dict[str, str]:
    """A label for each model: `short_names`, cut in the middle where they are still long.

    Every label is unique; those that were cut to the same get a number in the report's order.
    """
    short = short_names(results)
    names = [model.name for model in all_models(results)]
    labels = [_shortened(drawable(_plain(short[name])) or "?") for name in names]
    counts = Counter(labels)
    seen: Counter[str] = Counter()
    unique = {}
    for name, label in zip(names, labels, strict=True):
        seen[label] += 1
        unique[name] = f"{label} #{seen[label]}" if counts[label] > 1 else label
    return unique


def _plain(name: str) -> str:
    """Without .gguf, and with a cache's types alone for ``(cache q8_0/q4_0)``."""
    return _CACHE.sub(r"\1", name.removesuffix(".gguf"))


def _shortened(label: str) -> str:
    if len(label) <= _MAX_LABEL:
        return label
    half = (_MAX_LABEL - 1) // 2
    return f"{label[: _MAX_LABEL - 1 - half]}…{label[-half:]}"
