"""Numbers as readers of a report see them: enough digits, never more than were measured."""

from __future__ import annotations

import math
from collections.abc import Iterable

from apex_native.results import MeasuredModel, TaskScore

__all__ = [
    "NOT_MEASURED",
    "at_chance",
    "chance_mark",
    "gib",
    "kld",
    "not_finite",
    "percent",
    "perplexity",
    "score",
    "signed",
    "size_decimals",
    "speed",
    "with_error",
]

NOT_MEASURED = "—"

_GIB = 1 << 30


def gib(nbytes: int | None, decimals: int = 2) -> str:
    """Bytes in GiB, without the unit: it stands in the heading."""
    return NOT_MEASURED if nbytes is None else f"{nbytes / _GIB:.{decimals}f}"


def size_decimals(sizes: Iterable[int | None]) -> int:
    """Decimals of a column of GiB in which the smallest file still has three digits; 2 to 6."""
    known = [nbytes / _GIB for nbytes in sizes if nbytes]
    if not known:
        return 2
    return min(6, max(2, 2 - math.floor(math.log10(min(known)))))


def perplexity(value: float | None, error: float | None = None) -> str:
    """``6.5370 ± 0.0412``: four decimals below 100, two up to 10,000, three digits beyond."""
    if value is None:
        return NOT_MEASURED
    pattern = ".4f" if value < 100 else ".2f" if value < 10_000 else ".3g"
    return with_error(value, error, pattern)


def kld(value: float | None, error: float | None = None) -> str:
    """``0.005362 ± 0.000250``; alone ``14.71``; below 0.0001 in powers of ten, to lose no digit."""
    if value is None:
        return NOT_MEASURED
    if value != 0 and abs(value) < 1e-4:
        return with_error(value, error, ".2e")
    if error is None:
        return f"{value:#.4g}" if value else "0"
    return with_error(value, error, ".6f" if abs(value) < 1 else ".4f")


def signed(value: float | None) -> str:
    """A difference with its sign: ``+0.012300``, ``-1.20e-05``."""
    if value is None:
        return NOT_MEASURED
    return f"{value:+.6f}" if value == 0 or abs(value) >= 1e-4 else f"{value:+.2e}"


def percent(value: float | None, error: float | None = None, decimals: int = 2) -> str:
    """A fraction as a percentage, without the sign: it stands in the heading."""
    if value is None:
        return NOT_MEASURED
    scaled = None if error is None else 100 * error
    return with_error(100 * value, scaled, f".{decimals}f")


def speed(value: float | None) -> str:
    """Tokens per second: one decimal below 1000."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def with_error(value: float, error: float | None, pattern: str) -> str:
    """``value ± error`` in one pattern; the value alone where no error is known."""
    text = f"{value:{pattern}}"
    return text if error is None else f"{text} ± {error:{pattern}}"


def at_chance(result: TaskScore) -> bool:
    """True where guessing could have given the score: by the file's word or by its interval."""
    return not result.distinguishable_from_chance or result.low <= result.chance <= result.high


def chance_mark(result: TaskScore) -> str:
    """What must stand beside the score: ``chance``, ``below chance`` or nothing."""
    if at_chance(result):
        return "chance"
    return "below chance" if result.high < result.chance else ""


def not_finite(model: MeasuredModel) -> str:
    """``1,020 of 2,040 positions had logits that were not finite, first after layer 3``."""
    bad = model.n_not_finite or 0
    scored = "" if model.n_positions is None else f" of {bad + model.n_positions:,}"
    where = f", first at {model.first_not_finite}" if model.first_not_finite else ""
    return f"{bad:,}{scored} positions had logits that were not finite{where}"


def score(result: TaskScore | None) -> str:
    """The score in percent, with its mark: ``82.5``, ``24.6 (chance)``."""
    if result is None:
        return NOT_MEASURED
    mark = chance_mark(result)
    text = percent(result.score, decimals=1)
    return f"{text} ({mark})" if mark else text
