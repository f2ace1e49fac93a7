"""The reference first, then its candidates, where memory does not hold all of them at a time.

The reference becomes a `StoredReference`; then candidates are loaded, as many together as take no
more than it did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex_native.evaluation.divergence.base_output import BaseOutput
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    ScoreProgress,
    ScoreRun,
    Scores,
    TokenScores,
)
from apex_native.evaluation.divergence.stored_reference import StoredReference
from apex_native.evaluation.divergence.text import Chunks

__all__ = ["TwoPassJob", "run_two_pass"]


@dataclass(frozen=True, slots=True)
class TwoPassJob:
    """run has the reference's model and no candidates; load loads a batch of them.

    batches: how many candidates are in each, in order. read_ahead is told which is loaded next,
    while something else computes. noise is the reference again, or None. What is not needed any
    more is released at once. save_base: where the reference is written to; nothing is then taken
    from a checkpoint.
    """

    run: ScoreRun
    chunks: Chunks
    noise: CandidateRun | None
    batches: Sequence[int]
    load: Callable[[int], list[CandidateRun]]
    read_ahead: Callable[[int], None]
    release: Callable[[int], None]
    release_reference: Callable[[], None]
    save_base: Path | None
    checkpoint: Checkpoint | None
    progress: Callable[[ScoreProgress], None] | None


def run_two_pass(job: TwoPassJob) -> FinishedScores:
    """All scores, those of the noise last; finished candidates are kept in the checkpoint."""
    return _TwoPass(job).run()


class _TwoPass:
    def __init__(self, job: TwoPassJob) -> None:
        self.job = job
        self.n_chunks = job.run.n_chunks
        self.n_candidates = sum(job.batches)
        self.part, self.n_in_part = 0, 1
        self.base = job.save_base
        self.begin = time.monotonic()

    def run(self) -> FinishedScores:
        job = self.job
        done = job.checkpoint.load() if job.checkpoint and not job.save_base else None
        has_noise = done is not None and job.noise is not None
        noise = done.candidates[:1] if done is not None and has_noise else ()
        candidates = list(done.candidates[len(noise) :]) if done is not None else []
        reference = done.reference if done is not None else None
        stored = None
        if len(candidates) < self.n_candidates:
            self._read_ahead(self._batch_after(len(candidates)))
            stored = self._stored(None if has_noise else job.noise)
            noise = noise or stored.noise
        job.release_reference()
        for i, n in enumerate(job.batches):
            if sum(job.batches[:i]) < len(candidates):
                continue  # finished before
            self.part, self.n_in_part = 1 + len(candidates), n
            assert stored is not None
            reference, scores = self._score(i, stored)
            candidates.extend(scores)
            if job.checkpoint is not None:
                job.checkpoint.save(FinishedScores(self.n_chunks, reference, (*noise, *candidates)))
        assert reference is not None
        if job.checkpoint is not None:
            job.checkpoint.remove()
        return FinishedScores(self.n_chunks, reference, (*candidates, *noise))

    def _stored(self, noise: CandidateRun | None) -> StoredReference:
        return StoredReference(self.job.run, lambda share: self._tell(share, 0), noise)

    def _score(self, batch: int, stored: StoredReference) -> tuple[TokenScores, list[TokenScores]]:
        try:
            candidates = self.job.load(batch)
            self._read_ahead(batch + 1)
            with BaseOutput(self._take_base(), self.job.chunks) as base:
                return stored.score_together(candidates, self._tick, base.writer)
        finally:
            candidates = []  # they must not hold the models
            self.job.release(batch)

    def _batch_after(self, n_candidates: int) -> int:
        """The first batch that is not among so many finished candidates."""
        batches = self.job.batches
        return next(i for i in range(len(batches)) if sum(batches[:i]) >= n_candidates)

    def _read_ahead(self, batch: int) -> None:
        if batch < len(self.job.batches):
            self.job.read_ahead(batch)

    def _take_base(self) -> Path | None:
        """Where the base file goes, the first time."""
        path, self.base = self.base, None
        return path

    def _tick(self, progress: ScoreProgress, scores: Scores) -> None:
        self._tell(progress.share, scores.n_chunks)

    def _tell(self, share: float, n_chunks_done: int) -> None:
        if self.job.progress is not None:
            self.job.progress(
                ScoreProgress(
                    share=(self.part + share * self.n_in_part) / (1 + self.n_candidates),
                    n_chunks_done=n_chunks_done,
                    n_chunks=self.n_chunks,
                    elapsed_s=time.monotonic() - self.begin,
                )
            )
