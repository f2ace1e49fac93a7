"""Positions on a line, moved apart as little as needed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["spread"]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least ``gap`` apart between low and high, near the wanted ones, in their order.

    Neighbours that are too close become a block around their mean (pool adjacent violators). What
    does not fit between low and high is evenly spaced over them, closer than gap.
    """
    if not wanted:
        return []
    if gap * (len(wanted) - 1) > high - low:
        gap = (high - low) / max(len(wanted) - 1, 1)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, int]] = []  # the first position, and how many follow it
    for i in order:
        blocks.append((_clamped(wanted[i], 1, gap, low, high), 1))
        while len(blocks) > 1 and blocks[-2][0] + gap * blocks[-2][1] > blocks[-1][0]:
            last, n_last = blocks.pop()
            first, n_first = blocks.pop()
            # Each member's wish for where the block starts, averaged.
            start = (first * n_first + (last - gap * n_first) * n_last) / (n_first + n_last)
            n = n_first + n_last
            blocks.append((_clamped(start, n, gap, low, high), n))
    positions = [start + gap * k for start, n in blocks for k in range(n)]
    placed = [0.0] * len(wanted)
    for i, position in zip(order, positions, strict=True):
        placed[i] = position
    return placed


def _clamped(start: float, n: int, gap: float, low: float, high: float) -> float:
    return max(low, min(start, high - gap * (n - 1)))
