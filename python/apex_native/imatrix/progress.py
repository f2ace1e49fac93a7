"""How far a collection is."""

from __future__ import annotations

from dataclasses import dataclass

from apex_native.corpus import CorpusProgress

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
    all_experts: bool = False
    """It is the second pass, in which every expert is active."""
    tokens_in_work: int = 0
    """Tokens computed of the chunks that are not finished."""
    text: CorpusProgress | None = None
    """The text is being made, as a recipe says, and nothing is computed yet."""

    @classmethod
    def of_text(cls, text: CorpusProgress) -> ImatrixProgress:
        """Before anything is computed."""
        return cls(0, 0, 0, 0, text.elapsed_s, text=text)

    @property
    def share(self) -> float:
        """How much of this pass, or of the text, is done, 0 to 1."""
        if self.text is not None:
            return self.text.share
        tokens = self.n_chunks * self.chunk_size
        return (self.chunks_done * self.chunk_size + self.tokens_in_work) / tokens if tokens else 1

    @property
    def state(self) -> str:
        """Finished chunks and speed, in words."""
        if self.text is not None:
            return self.text.state
        every = ", all experts" if self.all_experts else ""
        return (
            f"{self.chunks_done}/{self.n_chunks} chunks{every}, {self.tokens_per_s:,.0f} tokens/s"
        )

    @property
    def tokens_per_s(self) -> float:
        """Speed of this run; 0 before there is anything to tell."""
        tokens = (self.chunks_done - self.chunks_resumed) * self.chunk_size
        return (tokens + self.tokens_in_work) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        if self.text is not None:
            return self.text.eta_s
        left = (self.n_chunks - self.chunks_done) * self.chunk_size - self.tokens_in_work
        return left / self.tokens_per_s if self.tokens_per_s else None
