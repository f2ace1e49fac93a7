"""How far a collection is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ImatrixProgress"]


@dataclass(frozen=True, slots=True)
class ImatrixProgress:
    """A snapshot; chunks_resumed of chunks_done were computed by an earlier run.

    n_chunks are at most computed: a collection that only wants its experts covered may end sooner.
    """

    chunks_done: int
    n_chunks: int
    chunks_resumed: int
    chunk_size: int
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        """Speed of this run; 0 before there is anything to tell."""
        tokens = (self.chunks_done - self.chunks_resumed) * self.chunk_size
        return tokens / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        speed = self.tokens_per_s
        return (self.n_chunks - self.chunks_done) * self.chunk_size / speed if speed else None
