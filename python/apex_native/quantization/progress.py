"""How far a run is: a frozen snapshot, handed to the caller about ten times a second."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot; bytes are source bytes, resumed ones included; finished names new tensors."""

    tensors_done: int
    n_tensors: int
    bytes_done: int
    n_bytes: int
    bytes_resumed: int
    elapsed_s: float
    finished: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """How much of the source is done, 0 to 1."""
        return self.bytes_done / self.n_bytes if self.n_bytes else 1.0

    @property
    def state(self) -> str:
        """Finished tensors and speed, in words."""
        return f"{self.tensors_done}/{self.n_tensors} tensors, {self.bytes_per_s / 1e6:.0f} MB/s"

    @property
    def bytes_per_s(self) -> float:
        """Source bytes a second in this run; 0 before there is anything to tell."""
        return (self.bytes_done - self.bytes_resumed) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        speed = self.bytes_per_s
        return (self.n_bytes - self.bytes_done) / speed if speed else None
