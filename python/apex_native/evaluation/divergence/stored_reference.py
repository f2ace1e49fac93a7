"""A reference computed once and kept as hidden states: candidates are compared with it later.

The first pass computes the reference up to its head and keeps the hidden states of the scored
positions, n_embd floats each. The reference's logits then come from those states and the weights of
its head alone, mapped from its file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from apex_native._native import core, forward_log
from apex_native.engine import Model
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    ScoreProgress,
    ScoreRun,
    Scores,
    TokenScores,
    run_scores,
)
from apex_native.interrupt import run_interruptible
from apex_native.machine import free_memory

__all__ = ["StoredReference", "hidden_states"]


def hidden_states(
    run: ScoreRun,
    of: CandidateRun,
    progress: Callable[[float], None] | None = None,
    record_first: Callable[[Any], int] | None = None,
) -> Any:
    """Native hidden states of a model over run's tokens, in run's shape; its head is not computed.

    progress gets the share that is done. record_first fills in the states of so many chunks
    otherwise (`core.RecordedReference`). Raises ModelError, OutputError where they do not fit.
    """
    assert of.model is not None
    stop = core.StopFlag()
    hidden_pass = core.HiddenPass(
        model=of.model.native,
        tokens=np.ascontiguousarray(run.tokens, dtype=np.int32),
        options=run.lane_options(),
        folder=_folder(run, of.model),
        type_k=of.type_k.id,
        type_v=of.type_v.id,
        stop=stop,
    )
    tick = None if progress is None else lambda: progress(hidden_pass.progress)
    n_done = 0 if record_first is None else record_first(hidden_pass.states)
    try:
        if n_done < run.n_chunks:
            run_interruptible(lambda: hidden_pass.run(n_done), stop.set, tick)
    finally:
        forward_log()
    return hidden_pass.states


class StoredReference:
    """The first pass is done when this exists; the reference's model may be freed after it."""

    def __init__(
        self,
        run: ScoreRun,
        progress: Callable[[float], None] | None = None,
        noise: CandidateRun | None = None,
    ) -> None:
        """Compute the model of run's reference; progress gets the share that is done.

        run has no candidates. noise: the reference again, compared with itself meanwhile on the
        first chunks (``noise``: its scores). Raises ModelError, OutputError where the states do not
        fit.
        """
        self.noise: tuple[TokenScores, ...] = ()

        def record_first(states: Any) -> int:
            if noise is None:
                return 0
            n_chunks = run.whole_groups(noise.n_chunks)
            self.noise = _recorded(run, states, noise, n_chunks)
            return n_chunks

        states = hidden_states(run, CandidateRun(run.reference.model), progress, record_first)
        self._run = replace(run, reference=OpenReference(hidden=states))

    def score(self, candidate: CandidateRun) -> tuple[TokenScores, TokenScores]:
        """The reference's positions and the candidate's; errors are those of `run_scores`."""
        reference, (scores,) = self.score_together([candidate])
        return reference, scores

    def score_together(
        self,
        candidates: Sequence[CandidateRun],
        on_tick: Callable[[ScoreProgress, Scores], None] | None = None,
        base_writer: Callable[[Any], None] | None = None,
    ) -> tuple[TokenScores, list[TokenScores]]:
        """The same of several candidates: the reference's head is computed once for all."""
        run = replace(self._run, candidates=candidates)
        scores = run_scores(run, base_writer=base_writer, on_tick=on_tick)
        return scores.reference(), scores.candidates()


def _recorded(
    run: ScoreRun, states: Any, noise: CandidateRun, n_chunks: int
) -> tuple[TokenScores, ...]:
    """Scores of the reference against itself; its hidden states are kept on the way."""
    first = replace(
        run,
        reference=replace(run.reference, hidden=states),
        candidates=[replace(noise, n_chunks=0)],
        tokens=run.tokens[: n_chunks * run.ctx],
    )
    return tuple(run_scores(first).candidates())


def _folder(run: ScoreRun, model: Model) -> str:
    """Where the hidden states go: memory ("") if they take at most a quarter of what is free."""
    n_scored = len(run.tokens) // run.ctx * (run.ctx - 1 - run.ctx // 2)
    available = free_memory()
    fits = available is None or 4 * (4 * n_scored * model.n_embd) <= available
    return "" if fits else tempfile.gettempdir()
