"""Reference and candidates one after the other, where memory does not hold two at a time.

The first pass computes the reference up to its head and keeps the hidden states of the scored
positions, n_embd floats each. Then each candidate is loaded in turn, and the reference's logits
come from those states and the weights of its head alone, mapped from its file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apex_native._native import core, forward_log
from apex_native.engine import Model
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    EvaluateProgress,
    ReferenceSource,
    ScoreRun,
    Scores,
    TokenScores,
    run_scores,
)
from apex_native.interrupt import run_interruptible
from apex_native.machine import free_memory

__all__ = ["TwoPassJob", "run_two_pass"]


@dataclass(frozen=True, slots=True)
class TwoPassJob:
    """run has the reference's model and no candidates; load_candidate loads the i-th.

    noise is the reference again, or None. close_reference is called between the passes.
    """

    run: ScoreRun
    noise: CandidateRun | None
    n_candidates: int
    load_candidate: Callable[[int], CandidateRun]
    close_reference: Callable[[], None]
    checkpoint: Checkpoint | None
    progress: Callable[[EvaluateProgress], None] | None


def run_two_pass(job: TwoPassJob) -> FinishedScores:
    """All scores, those of the noise last; finished candidates are kept in the checkpoint."""
    return _TwoPass(job).run()


class _TwoPass:
    def __init__(self, job: TwoPassJob) -> None:
        self.job = job
        self.n_chunks = len(job.run.tokens) // job.run.ctx
        self.n_parts = 1 + job.n_candidates
        self.part = 0
        self.begin = time.monotonic()

    def run(self) -> FinishedScores:
        job = self.job
        done = job.checkpoint.load() if job.checkpoint is not None else None
        noise = done.candidates[:1] if done is not None and job.noise is not None else self._noise()
        candidates = list(done.candidates[len(noise) :]) if done is not None else []
        reference = done.reference if done is not None else None
        hidden = self._first_pass() if len(candidates) < job.n_candidates else None
        job.close_reference()
        for i in range(len(candidates), job.n_candidates):
            self.part = 1 + i
            reference, scores = self._candidate(i, hidden)
            candidates.append(scores)
            if job.checkpoint is not None:
                job.checkpoint.save(FinishedScores(self.n_chunks, reference, (*noise, *candidates)))
        assert reference is not None
        if job.checkpoint is not None:
            job.checkpoint.remove()
        return FinishedScores(self.n_chunks, reference, (*candidates, *noise))

    def _noise(self) -> tuple[TokenScores, ...]:
        noise, run = self.job.noise, self.job.run
        if noise is None:
            return ()
        n_tokens = min(noise.n_chunks * run.ctx, len(run.tokens))
        first = replace(run, candidates=[replace(noise, n_chunks=0)], tokens=run.tokens[:n_tokens])
        return tuple(run_scores(first).candidates())

    def _first_pass(self) -> Any:
        run = self.job.run
        stop = core().StopFlag()
        hidden_pass = core().HiddenPass(
            model=_model(run).native,
            tokens=np.ascontiguousarray(run.tokens, dtype=np.int32),
            n_ctx=run.ctx,
            n_sequences=run.shape.n_sequences,
            n_positions=run.shape.n_positions,
            with_routes=run.with_routes,
            n_lanes=run.shape.n_lanes,
            n_threads=run.shape.n_threads,
            folder=_folder(run, _model(run).n_embd),
            stop=stop,
        )
        try:
            run_interruptible(
                hidden_pass.run, stop.set, lambda: self._tell(hidden_pass.progress, 0)
            )
        finally:
            forward_log()
        return hidden_pass.states

    def _candidate(self, i: int, hidden: Any) -> tuple[TokenScores, TokenScores]:
        candidate = self.job.load_candidate(i)
        try:
            run = replace(
                self.job.run, reference=ReferenceSource(hidden=hidden), candidates=[candidate]
            )
            scores = run_scores(run, on_tick=self._tick)
            return scores.reference(), scores.candidates()[0]
        finally:
            candidate.model.close()

    def _tick(self, progress: EvaluateProgress, scores: Scores) -> None:
        self._tell(progress.share, scores.n_chunks)

    def _tell(self, share: float, n_chunks_done: int) -> None:
        if self.job.progress is not None:
            self.job.progress(
                EvaluateProgress(
                    share=(self.part + share) / self.n_parts,
                    n_chunks_done=n_chunks_done,
                    n_chunks=self.n_chunks,
                    elapsed_s=time.monotonic() - self.begin,
                )
            )


def _model(run: ScoreRun) -> Model:
    assert run.reference.model is not None
    return run.reference.model


def _folder(run: ScoreRun, n_embd: int) -> str:
    """Where the hidden states go: memory ("") if they take at most a quarter of what is free."""
    n_scored = len(run.tokens) // run.ctx * (run.ctx - 1 - run.ctx // 2)
    available = free_memory()
    fits = available is None or 4 * (4 * n_scored * n_embd) <= available
    return "" if fits else tempfile.gettempdir()
