"""Where a layer stands: at the edge of the trunk, near it, or in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from apex_native.errors import PlanError

__all__ = ["Edges", "Position", "default_edges"]

REFERENCE_DEPTH = 40
"""Layers of Qwen3.5-35B-A3B, for which the published tiers state edge 5, near 5, attention 3."""

DEEP = 30
"""From this depth on the published widths apply unscaled."""


class Position(Enum):
    """Distance class of a layer from the ends of the trunk."""

    EDGE = "edge"
    NEAR = "near"
    MIDDLE = "middle"


@dataclass(frozen=True, slots=True)
class Edges:
    """Widths in layers, counted from each end of the trunk.

    expert: the edge of routed and shared experts; near: the band that follows it;
    attention: the edge of attention and state-space tensors. Raises PlanError if one is negative.
    """

    expert: int
    near: int
    attention: int

    def __post_init__(self) -> None:
        for name in ("expert", "near", "attention"):
            width = getattr(self, name)
            if width < 0:
                raise PlanError(f"edge width '{name}' must be 0 or more, found {width}")

    def expert_position(self, layer: int, n_layer: int) -> Position:
        """Position of a layer's experts in a trunk of n_layer."""
        distance = min(layer, n_layer - 1 - layer)
        if distance < self.expert:
            return Position.EDGE
        return Position.NEAR if distance < self.expert + self.near else Position.MIDDLE

    def attention_position(self, layer: int, n_layer: int) -> Position:
        """Position of a layer's attention: EDGE or MIDDLE."""
        distance = min(layer, n_layer - 1 - layer)
        return Position.EDGE if distance < self.attention else Position.MIDDLE


def default_edges(n_layer: int) -> tuple[Edges, str]:
    """The widths for a trunk of this depth, and the rule they come from.

    Published for 40 layers and used from 30 on; below, they shrink in proportion,
    ``max(1, round(5 L / 40))`` and ``max(1, round(3 L / 40))`` with Python's rounding of halves
    to even.
    """
    if n_layer >= DEEP:
        return Edges(5, 5, 3), f"{n_layer} layers: the published widths (from {DEEP} layers on)"
    expert = max(1, round(5 * n_layer / REFERENCE_DEPTH))
    attention = max(1, round(3 * n_layer / REFERENCE_DEPTH))
    why = f"{n_layer} layers: the published widths for {REFERENCE_DEPTH} scaled down"
    return Edges(expert, expert, attention), why
