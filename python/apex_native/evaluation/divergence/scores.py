"""What a model's scored positions are, and how they are computed: the native scorer's face."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core, forward_log
from apex_native.engine import Model, Tokens
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.shape import ScoreShape
from apex_native.interrupt import run_interruptible
from apex_native.types import GgmlType

__all__ = [
    "CandidateRun",
    "ScoreProgress",
    "ScoreRun",
    "TokenScores",
    "run_scores",
]

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """A model's scored positions, chunk after chunk; arrays of equal length.

    nll in nats of the text's next token. Of candidates beside a reference: kld in nats from the
    reference, is_same_top if the most probable token is the reference's. Of the reference:
    top_probability of its most probable token. Empty where it does not apply.
    """

    nll: Doubles
    is_finite: Flags
    kld: Doubles
    is_same_top: Flags
    top_probability: Doubles
    router: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """By layer: tokens, those with the reference's set of experts, those with its first one."""

    def __repr__(self) -> str:
        kld = f", mean KLD {self.kld.mean():.6f}" if self.kld.size else ""
        return f"TokenScores({self.n:,} positions{kld})"

    @property
    def n(self) -> int:
        """Scored positions."""
        return len(self.nll)


@dataclass(frozen=True, slots=True)
class ScoreProgress:
    """A snapshot: share of all computations that are done, 0 to 1, and whole chunks."""

    share: float
    n_chunks_done: int
    n_chunks: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class CandidateRun:
    """A model to be scored, or its hidden states; n_parts > 1 splits its batches.

    n_chunks limits it to the first ones; 0 is all of them, -1 none.
    """

    model: Model | None = None
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    n_parts: int = 1
    n_chunks: int = 0
    hidden: Any = None

    def native(self) -> Any:
        """What the extension takes."""
        if self.model is None:
            return core.Candidate(hidden=self.hidden)
        return core.Candidate(
            model=self.model.native,
            type_k=self.type_k.id,
            type_v=self.type_v.id,
            n_parts=self.n_parts,
            n_chunks=None if self.n_chunks == 0 else max(self.n_chunks, 0),
        )


@dataclass(frozen=True, slots=True)
class ScoreRun:
    """Everything the native scorer needs; first_chunk says where in the text the tokens begin."""

    reference: OpenReference
    candidates: Sequence[CandidateRun]
    tokens: Tokens
    ctx: int
    shape: ScoreShape
    first_chunk: int = 0
    with_routes: bool = True

    @property
    def n_chunks(self) -> int:
        """Chunks of the tokens."""
        return len(self.tokens) // self.ctx

    def whole_groups(self, n_chunks: int) -> int:
        """So many chunks, rounded up to groups that are computed together."""
        n = self.shape.n_sequences
        return min(self.n_chunks, -(-n_chunks // n) * n)

    def lane_options(self) -> Any:
        """How the extension is to compute the chunks."""
        return core.LaneOptions(
            n_ctx=self.ctx,
            n_sequences=self.shape.n_sequences,
            n_positions=self.shape.n_positions,
            n_lanes=self.shape.n_lanes,
            n_threads=self.shape.n_threads,
            with_routes=self.with_routes,
        )


class Scores:
    """What a run has finished so far."""

    def __init__(self, scorer: Any, n_candidates: int) -> None:
        """Look at a native scorer."""
        self._scorer = scorer
        self._n_candidates = n_candidates

    @property
    def n_chunks(self) -> int:
        """Finished chunks."""
        return int(self._scorer.n_chunks_done)

    def reference(self) -> TokenScores:
        """The reference's positions; empty without one."""
        return TokenScores(**self._scorer.reference_scores())

    def candidates(self) -> list[TokenScores]:
        """Every candidate's positions."""
        return [
            TokenScores(**self._scorer.candidate_scores(i), router=self._scorer.router_agreement(i))
            for i in range(self._n_candidates)
        ]


def run_scores(
    run: ScoreRun,
    *,
    base_writer: Callable[[Any], None] | None = None,
    on_tick: Callable[[ScoreProgress, Scores], None] | None = None,
    on_stop: Callable[[Scores], None] | None = None,
) -> Scores:
    """Compute; on_tick is called about ten times a second, on_stop when an exception ends it.

    base_writer gets the native scorer before it runs. Raises ModelError, ValueError, and whatever
    on_tick raises.
    """
    stop = core.StopFlag()
    begin = time.monotonic()
    scorer = run_interruptible(lambda: _make_scorer(run, stop), stop.set)
    if base_writer is not None:
        base_writer(scorer)
    scores = Scores(scorer, len(run.candidates))

    def tick() -> None:
        if on_tick is not None:
            elapsed = time.monotonic() - begin
            on_tick(
                ScoreProgress(scorer.progress, scores.n_chunks, scorer.n_chunks, elapsed), scores
            )

    try:
        run_interruptible(scorer.run, stop.set, tick)
        tick()
    except BaseException:
        if on_stop is not None:
            on_stop(scores)
        raise
    finally:
        forward_log()
    return scores


def _make_scorer(run: ScoreRun, stop: Any) -> Any:
    return core.Scorer(
        reference=_native_reference(run),
        candidates=[candidate.native() for candidate in run.candidates],
        tokens=np.ascontiguousarray(run.tokens, dtype=np.int32),
        options=run.lane_options(),
        stop=stop,
    )


def _native_reference(run: ScoreRun) -> Any:
    reference = run.reference
    if reference.model is not None:
        model = reference.model.native
        if reference.hidden is None:
            return model
        return core.RecordedReference(model=model, states=reference.hidden)
    if reference.base is not None:
        return core.BaseReference(file=reference.base, first_chunk=run.first_chunk)
    return reference.hidden
