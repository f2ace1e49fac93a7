"""How chunks are computed: how many at once, in how large pieces."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOGITS_BYTES", "ChunkShape", "choose_shape"]

LOGITS_BYTES = 1 << 30
"""Logits of all models together at most: with compute buffers an evaluation stays below 2 GiB
beside the models, whatever the vocabulary."""

UBATCH = 512
"""Tokens computed at once, llama.cpp's default."""

MAX_SEQUENCES = 4
"""Chunks of 512 that llama-perplexity computes together (n_batch 2048 / n_ctx 512)."""

MIN_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """n_sequences chunks at once, n_positions tokens of each at a time."""

    n_sequences: int
    n_positions: int

    @property
    def n_ubatch(self) -> int:
        """Tokens computed at once."""
        return self.n_sequences * self.n_positions


def choose_shape(
    ctx: int, n_vocab: int, n_models: int, n_chunks: int, n_ubatch: int | None = None
) -> ChunkShape:
    """The shape for one evaluation; n_ubatch overrides the tokens computed at once."""
    budget = n_ubatch or UBATCH
    sequences = max(1, min(MAX_SEQUENCES, UBATCH * MAX_SEQUENCES // ctx, n_chunks, budget))
    positions = max(1, min(ctx, budget // sequences))
    if n_ubatch is not None:
        return ChunkShape(sequences, positions)
    most_outputs = max(1, LOGITS_BYTES // (4 * n_vocab * n_models))
    while sequences * positions > most_outputs and positions > MIN_POSITIONS:
        positions //= 2
    while sequences * positions > most_outputs and sequences > 1:
        sequences //= 2
    return ChunkShape(sequences, positions)
