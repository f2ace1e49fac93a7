"""All models in one pass, with what is finished kept on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from apex_native.evaluation.divergence.base_output import BaseOutput
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores, join_scores
from apex_native.evaluation.divergence.scores import (
    ScoreProgress,
    ScoreRun,
    Scores,
    run_scores,
)
from apex_native.evaluation.divergence.text import Chunks

__all__ = ["CHECKPOINT_EVERY_S", "compute_scores"]

CHECKPOINT_EVERY_S = 60.0


def compute_scores(
    run: ScoreRun,
    chunks: Chunks,
    checkpoint: Checkpoint | None,
    *,
    save_base: Path | None,
    progress: Callable[[ScoreProgress], None] | None,
) -> FinishedScores:
    """All chunks' scores, those that an interrupted run left in the checkpoint included.

    A base file is written whole: with save_base nothing is taken from a checkpoint.
    """
    before = checkpoint.load() if checkpoint is not None and save_base is None else None
    n_before = before.n_chunks if before is not None else 0
    if before is not None and n_before >= chunks.data.n_chunks:
        return before
    rest = _rest(run, n_before)
    keeper = _Keeper(checkpoint, before, chunks.data.n_chunks, progress)
    try:
        with BaseOutput(save_base, chunks) as base:
            scores = run_scores(
                rest,
                base_writer=base.writer,
                on_tick=keeper.tick,
                on_stop=keeper.keep,
            )
    except BaseException as stop:
        keeper.explain(stop)
        raise
    finished = keeper.joined(scores)
    if checkpoint is not None:
        checkpoint.remove()
    return finished


def _rest(run: ScoreRun, n_done: int) -> ScoreRun:
    """The run without its first chunks; limited candidates keep what is left of their limit."""
    if not n_done:
        return run
    candidates = [
        replace(
            candidate, n_chunks=candidate.n_chunks - n_done if candidate.n_chunks > n_done else -1
        )
        if candidate.n_chunks
        else candidate
        for candidate in run.candidates
    ]
    return replace(
        run, candidates=candidates, tokens=run.tokens[n_done * run.ctx :], first_chunk=n_done
    )


class _Keeper:
    """Keeps finished chunks while a run goes on, and tells how far it is."""

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        before: FinishedScores | None,
        n_chunks: int,
        progress: Callable[[ScoreProgress], None] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._before = before
        self._n_chunks = n_chunks
        self._progress = progress
        self._saved_at = time.monotonic()
        self._n_kept = before.n_chunks if before is not None else 0

    def tick(self, progress: ScoreProgress, scores: Scores) -> None:
        n_before = self._before.n_chunks if self._before is not None else 0
        if self._progress is not None:
            done = n_before / self._n_chunks
            self._progress(
                ScoreProgress(
                    share=done + (1 - done) * progress.share,
                    n_chunks_done=n_before + progress.n_chunks_done,
                    n_chunks=self._n_chunks,
                    elapsed_s=progress.elapsed_s,
                )
            )
        if time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
            self.keep(scores)
            self._saved_at = time.monotonic()

    def joined(self, scores: Scores) -> FinishedScores:
        reference, candidates = scores.reference(), scores.candidates()
        if self._before is None:
            return FinishedScores(scores.n_chunks, reference, tuple(candidates))
        pairs = zip(self._before.candidates, candidates, strict=True)
        return FinishedScores(
            self._before.n_chunks + scores.n_chunks,
            join_scores(self._before.reference, reference),
            tuple(join_scores(ours, theirs) for ours, theirs in pairs),
        )

    def keep(self, scores: Scores) -> None:
        if self._checkpoint is None or not scores.n_chunks:
            return
        finished = self.joined(scores)
        self._checkpoint.save(finished)
        self._n_kept = finished.n_chunks

    def explain(self, stop: BaseException) -> None:
        if self._n_kept and self._checkpoint is not None:
            stop.add_note(
                f"{self._n_kept} of {self._n_chunks} chunks are finished and kept in "
                f"{self._checkpoint.path}; the same command goes on from there"
            )
