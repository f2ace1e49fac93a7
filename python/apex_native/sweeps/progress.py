"""How far a sweep is, and who leads so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ShowSweep", "Standing", "SweepProgress"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate all of whose blocks of a text are done: mean KLD in nats."""

    name: str
    text: str
    nbytes: int
    kld: float


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """A snapshot: jobs, known before or done now; share counts them by their size, 0 to 1.

    eta_s is None while unknown. best: the candidates done so far, the smallest KLD first.
    """

    n_jobs: int
    n_known: int
    n_done: int
    n_failed: int
    n_workers: int
    share: float
    elapsed_s: float
    eta_s: float | None
    best: tuple[Standing, ...] = ()

    @property
    def state(self) -> str:
        """In words."""
        words = [f"{self.n_known + self.n_done}/{self.n_jobs} jobs"]
        if self.n_workers > 1:
            words.append(f"{self.n_workers} workers")
        if self.n_failed:
            words.append(f"{self.n_failed} failed")
        if self.best:
            words.append(f"best {self.best[0].name}")
        return ", ".join(words)


ShowSweep = Callable[[SweepProgress], None]
