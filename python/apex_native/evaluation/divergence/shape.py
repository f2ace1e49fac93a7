"""How chunks are computed: in how many lanes, how many at once, in how large pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apex_native.engine import GPU_UBATCH, UBATCH

__all__ = ["LOGITS_BYTES", "ScoreShape", "Workload", "choose_shape", "shape_of_passes"]

LOGITS_BYTES = 1 << 30
"""Logits of all models in all lanes at most: with compute buffers an evaluation stays below 2 GiB
beside the models, whatever the vocabulary."""

GPU_LOGITS_BYTES = 8 << 30
"""The same for a GPU, whose own memory they are left in, where it has four times as much to spare:
seven models with a quarter of a million tokens in the vocabulary then compute `GPU_UBATCH` tokens
at once."""

MAX_LANES = 4
"""Each lane has a cache and buffers of its own for every model; llama-perplexity computes 4 chunks
of 512 together (n_batch 2048), which takes as much cache."""

GOOD_POSITIONS = 128
"""Fewer positions at once cost speed, and rounding: llama.cpp computes gated delta nets in blocks
of 64 positions, and only whole blocks give the same bits however a chunk is cut."""

MIN_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class ScoreShape:
    """n_lanes lanes of n_threads threads, each with n_sequences chunks, n_positions at a time."""

    n_lanes: int
    n_threads: int
    n_sequences: int
    n_positions: int

    @property
    def n_ubatch(self) -> int:
        """Tokens computed at once in a lane."""
        return self.n_sequences * self.n_positions


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be computed; n_models are held in memory with their logits."""

    ctx: int
    n_chunks: int
    n_vocab: int
    n_models: int
    n_threads: int
    on_gpu: bool
    spare_gpu_bytes: int | None = None

    def beside(self, n_models: int, spare_gpu_bytes: int | None) -> Workload:
        """The same with so many models more, and what a GPU then has to spare."""
        return replace(self, n_models=self.n_models + n_models, spare_gpu_bytes=spare_gpu_bytes)


def shape_of_passes(passes: Sequence[Workload], n_ubatch: int | None = None) -> ScoreShape:
    """One shape for all passes of an evaluation, whose numbers meet: that of the tightest one."""
    shapes = [choose_shape(work, n_ubatch) for work in passes]
    return min(shapes, key=lambda shape: shape.n_ubatch * shape.n_lanes)


def choose_shape(work: Workload, n_ubatch: int | None = None) -> ScoreShape:
    """The shape for one evaluation; n_ubatch overrides the tokens computed at once.

    A lane a thread, where memory allows: single threads do not wait for each other.
    """
    budget = n_ubatch or (GPU_UBATCH if work.on_gpu else UBATCH)
    most_bytes = LOGITS_BYTES
    if work.on_gpu:
        spare = 4 * GPU_LOGITS_BYTES if work.spare_gpu_bytes is None else work.spare_gpu_bytes
        most_bytes = min(GPU_LOGITS_BYTES, spare // 4)
    sequences = max(1, min(budget // work.ctx, work.n_chunks))
    positions = max(1, min(work.ctx, budget))
    n_groups = -(-work.n_chunks // sequences)
    lanes = 1 if work.on_gpu else max(1, min(work.n_threads, MAX_LANES, n_groups))

    def logits_bytes() -> int:
        outputs = sequences * min(positions, work.ctx // 2)
        return lanes * work.n_models * outputs * work.n_vocab * 4

    while logits_bytes() > most_bytes and n_ubatch is None:
        if positions > GOOD_POSITIONS:
            positions = max(GOOD_POSITIONS, positions // 2)
        elif lanes > 1:
            lanes //= 2
        elif sequences > 1:
            sequences //= 2
        elif positions > MIN_POSITIONS:
            positions //= 2
        else:
            break
    return ScoreShape(lanes, max(1, work.n_threads // lanes), sequences, positions)
