"""How far an evaluation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["EvaluateProgress", "Part", "ShowProgress"]

Part = Literal["text", "tasks", "speed"]


@dataclass(frozen=True, slots=True)
class EvaluateProgress:
    """A snapshot: the share of one part that is done, 0 to 1, and in words what is at work."""

    part: Part
    share: float
    state: str
    elapsed_s: float

    @property
    def eta_s(self) -> float | None:
        """Seconds this part still takes at the speed so far; None while unknown."""
        return self.elapsed_s * (1 - self.share) / self.share if self.share > 0 else None


ShowProgress = Callable[[EvaluateProgress], None]
