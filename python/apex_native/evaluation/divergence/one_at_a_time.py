"""Models one after the other in large batches, where a GPU's memory holds no whole model.

Each model's hidden states of all scored positions are computed first, as many chunks at once as its
`StreamPlan` says, and the model is freed. Its logits then come from those states and the weights of
its head alone, beside the reference's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apex_native.engine import Model
from apex_native.evaluation.divergence.base_output import BaseOutput
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores
from apex_native.evaluation.divergence.noise import NOISE_POSITIONS
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    ScoreProgress,
    ScoreRun,
    Scores,
    TokenScores,
    run_scores,
)
from apex_native.evaluation.divergence.shape import LOGITS_BYTES, ScoreShape
from apex_native.evaluation.divergence.stored_reference import hidden_states
from apex_native.evaluation.divergence.text import Chunks, Text
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.streaming import MAX_CHUNKS, LargeBatches, StreamPlan

__all__ = ["OneAtATimeJob", "run_one_at_a_time", "shape_of_heads", "shape_of_pass",
           "with_batches"]  # fmt: skip

SCORING_SHARE = 0.1
"""Of a model's time, what its head takes; for progress alone."""


@dataclass(frozen=True, slots=True)
class OneAtATimeJob:
    """run has the reference, and shape_of_heads; load_candidate loads the i-th.

    noise_chunks: how many of the first chunks the reference is computed again for. read_ahead is
    told which candidate is loaded next, while another computes. What is not needed any more is
    released at once.
    """

    run: ScoreRun
    chunks: Chunks
    noise_chunks: int
    n_candidates: int
    load_candidate: Callable[[int], CandidateRun]
    read_ahead: Callable[[int], None]
    release_candidate: Callable[[int], None]
    release_reference: Callable[[], None]
    save_base: Path | None
    checkpoint: Checkpoint | None
    progress: Callable[[ScoreProgress], None] | None


def with_batches(model: ModelUnderTest, options: TextOptions, text: Text | None) -> ModelUnderTest:
    """The model told what it will compute, where a limit on GPU memory makes that decide."""
    ctx = options.ctx
    if model.placement.gpu_memory is None:
        return model
    # A text has no more tokens than characters, or about.
    n_chunks = options.chunks or (len(text.content) // ctx + 1 if text else MAX_CHUNKS)
    batches = LargeBatches(ctx, n_chunks, n_outputs=ctx - 1 - ctx // 2)
    return model.moved(replace(model.placement, batches=batches))


def shape_of_pass(model: Model, ctx: int, n_chunks: int) -> ScoreShape:
    """How a model without its head computes n_chunks chunks."""
    plan = model.stream or StreamPlan(1)
    return ScoreShape(1, model.n_threads, plan.sequences_for(n_chunks), ctx)


def shape_of_heads(ctx: int, n_chunks: int, n_vocab: int, n_threads: int) -> ScoreShape:
    """How many logits of two models there are at once: `LOGITS_BYTES`, or those of a few rows."""
    row = 2 * n_vocab * 4
    n_scored = ctx - 1 - ctx // 2
    sequences = max(1, min(n_chunks, LOGITS_BYTES // (row * n_scored)))
    positions = ctx
    while sequences == 1 and positions > NOISE_POSITIONS and row * positions > LOGITS_BYTES:
        positions = -(-positions // 2)
    return ScoreShape(1, n_threads, sequences, positions)


def run_one_at_a_time(job: OneAtATimeJob) -> FinishedScores:
    """All scores, those of the noise last; finished candidates are kept in the checkpoint."""
    return _OneAtATime(job).run()


class _OneAtATime:
    def __init__(self, job: OneAtATimeJob) -> None:
        self.job = job
        self.n_chunks = len(job.run.tokens) // job.run.ctx
        self.n_parts = job.n_candidates + (job.run.reference.model is not None)
        self.part = 0
        self.begin = time.monotonic()
        self.base_is_to_come = job.save_base is not None

    def run(self) -> FinishedScores:
        job = self.job
        done = job.checkpoint.load() if job.checkpoint and not job.save_base else None
        candidates = list(done.candidates) if done is not None else []
        n_noise = int(job.noise_chunks > 0)
        noise, candidates = candidates[:n_noise], candidates[n_noise:]
        reference = done.reference if done is not None else None
        if reference is None or len(candidates) < job.n_candidates:
            self._read_ahead(len(candidates))
            run = self._with_states()
            if not noise and n_noise:
                noise = [self._noise(run)]
            job.release_reference()
            if job.n_candidates == 0:
                reference = self._scores(run, []).reference()
            for i in range(len(candidates), job.n_candidates):
                reference, scores = self._candidate(run, i)
                candidates.append(scores)
                self._keep(FinishedScores(self.n_chunks, reference, (*noise, *candidates)))
        assert reference is not None
        if job.checkpoint is not None:
            job.checkpoint.remove()
        return FinishedScores(self.n_chunks, reference, (*candidates, *noise))

    def _keep(self, finished: FinishedScores) -> None:
        if self.job.checkpoint is not None:
            self.job.checkpoint.save(finished)

    def _with_states(self) -> ScoreRun:
        """The run with its reference's hidden states in the place of the model."""
        run = self.job.run
        model = run.reference.model
        if model is None:
            return run
        states = self._states(model, run, CandidateRun(model))
        self.part += 1
        return replace(run, reference=replace(run.reference, model=None, hidden=states))

    def _states(self, model: Model, run: ScoreRun, of: CandidateRun) -> Any:
        n_chunks = len(run.tokens) // run.ctx
        shape = shape_of_pass(model, run.ctx, n_chunks)
        return hidden_states(
            replace(run, shape=shape), of, lambda share: self._tell((1 - SCORING_SHARE) * share, 0)
        )

    def _noise(self, run: ScoreRun) -> TokenScores:
        """The reference again, a few positions at a time of all chunks at once."""
        model = self.job.run.reference.model
        assert model is not None
        n = min(self.job.noise_chunks, self.n_chunks)
        few = replace(run, tokens=run.tokens[: n * run.ctx], with_routes=False)
        shape = shape_of_pass(model, run.ctx, n)
        shape = replace(shape, n_positions=min(NOISE_POSITIONS, run.ctx))
        again = hidden_states(replace(few, shape=shape), CandidateRun(model))
        return run_scores(replace(few, candidates=[CandidateRun(hidden=again)])).candidates()[0]

    def _candidate(self, run: ScoreRun, i: int) -> tuple[TokenScores, TokenScores]:
        try:
            candidate = self.job.load_candidate(i)
            self._read_ahead(i + 1)
            assert candidate.model is not None
            states = self._states(candidate.model, run, candidate)
        finally:
            candidate = CandidateRun()  # it must not hold the model
            self.job.release_candidate(i)
        scores = self._scores(run, [CandidateRun(hidden=states)])
        self.part += 1
        return scores.reference(), scores.candidates()[0]

    def _read_ahead(self, candidate: int) -> None:
        if candidate < self.job.n_candidates:
            self.job.read_ahead(candidate)

    def _scores(self, run: ScoreRun, candidates: list[CandidateRun]) -> Scores:
        path = self.job.save_base if self.base_is_to_come else None
        self.base_is_to_come = False
        with BaseOutput(path, self.job.chunks) as base:
            return run_scores(
                replace(run, candidates=candidates),
                base_writer=base.writer,
                on_tick=self._tick,
            )

    def _tick(self, progress: ScoreProgress, scores: Scores) -> None:
        self._tell(1 - SCORING_SHARE + SCORING_SHARE * progress.share, scores.n_chunks)

    def _tell(self, share: float, n_chunks_done: int) -> None:
        if self.job.progress is not None:
            self.job.progress(
                ScoreProgress(
                    share=min(1.0, (self.part + share) / self.n_parts),
                    n_chunks_done=n_chunks_done,
                    n_chunks=self.n_chunks,
                    elapsed_s=time.monotonic() - self.begin,
                )
            )
