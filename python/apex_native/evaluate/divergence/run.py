"""Perplexity and divergence of several models in one pass over a text."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from apex_native.engine import Model, load_model
from apex_native.evaluate.divergence.base_output import BaseOutput
from apex_native.evaluate.divergence.checkpoint import Checkpoint, FinishedScores, join_scores
from apex_native.evaluate.divergence.memory import require_memory
from apex_native.evaluate.divergence.options import EvalOptions
from apex_native.evaluate.divergence.record import (
    candidate_record,
    complete,
    find_known,
    make_build,
    make_settings,
    new_results,
    require_same_evaluation,
)
from apex_native.evaluate.divergence.reference import (
    Yardstick,
    is_base_file,
    open_reference,
    require_same_tokenizer,
)
from apex_native.evaluate.divergence.scores import (
    CandidateRun,
    EvaluateProgress,
    ScoreRun,
    Scores,
    TokenScores,
    run_scores,
)
from apex_native.evaluate.divergence.shape import ChunkShape, choose_shape
from apex_native.evaluate.divergence.statistics import noise_floor
from apex_native.evaluate.divergence.subject import CandidateSpec, describe, name_candidates
from apex_native.evaluate.divergence.text import Chunks, Text
from apex_native.results import NoiseFloor, Results, Settings

__all__ = ["CHECKPOINT_EVERY_S", "EvalJob", "EvalResults", "run_job"]

CHECKPOINT_EVERY_S = 60.0

NOISE_DESCRIPTION = "reference again in batches of half the size, first {n} chunks"


@dataclass(frozen=True, slots=True)
class EvalResults:
    """What was found: `results` as they are stored, and every model's scored positions.

    tokens has the arrays of this run by name, the reference's under its own; models that were
    taken over from earlier results have none.
    """

    results: Results
    tokens: Mapping[str, TokenScores] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON; OutputError."""
        self.results.save(Path(path))


@dataclass(frozen=True, slots=True)
class EvalJob:
    """One evaluation; see `apex_native.evaluate`."""

    reference: Path | None
    candidates: tuple[Path, ...]
    text: Text | None
    options: EvalOptions
    known: Results | None = None
    save_base: Path | None = None
    checkpoint: Path | None = None
    progress: Callable[[EvaluateProgress], None] | None = None


def run_job(job: EvalJob) -> EvalResults:
    """Load, compute, summarise."""
    with ExitStack() as stack:
        return _Run(job, stack).run()


class _Run:
    """The steps of one evaluation, which share what was loaded."""

    def __init__(self, job: EvalJob, stack: ExitStack) -> None:
        self.job = job
        self.options = job.options
        self.stack = stack
        self.specs = [
            CandidateSpec(describe(path), job.options.type_k, job.options.type_v)
            for path in job.candidates
        ]

    def run(self) -> EvalResults:
        self._check_memory()
        yardstick = open_reference(self.job.reference, self.options, self.stack)
        tokenizer = yardstick.model or self._load(self.specs[0])
        chunks = yardstick.chunks(self.job.text, tokenizer, self.options)
        todo = [spec for spec in self.specs if find_known(self.job.known, spec) is None]
        shape = choose_shape(
            chunks.data.ctx,
            tokenizer.n_vocab,
            len(todo) + 2,
            chunks.data.n_chunks,
            self.options.n_ubatch,
        )
        settings = make_settings(self.options, chunks.data.ctx, shape, tokenizer.n_threads)
        known = self.job.known
        if known is not None:
            require_same_evaluation(known, chunks, settings, yardstick.record({}))
            if not todo:
                return EvalResults(known)
        models = [self._load(spec, tokenizer) for spec in todo]
        run = self._score_run(yardstick, todo, models, chunks, shape)
        finished = _compute(self.job, run, chunks, self._key(yardstick, todo, chunks, settings))
        return self._summarise(yardstick, todo, finished, chunks, settings, tokenizer)

    def _check_memory(self) -> None:
        subjects = [spec.subject for spec in self.specs]
        if self.job.reference is not None and not is_base_file(self.job.reference):
            subjects.append(describe(self.job.reference))
        on_gpu = self.options.load.get("n_gpu_layers", 0) != 0
        if self.options.check_memory and not on_gpu:
            # The same file is mapped once.
            unique = {subject.path.resolve(): subject for subject in subjects}
            require_memory(list(unique.values()), two_pass=self.options.two_pass)

    def _load(self, spec: CandidateSpec, tokenizer: Model | None = None) -> Model:
        if tokenizer is not None and Path(tokenizer.path) == spec.subject.path:
            return tokenizer
        model = self.stack.enter_context(load_model(spec.subject.path, **self.options.load))
        if tokenizer is not None:
            require_same_tokenizer(tokenizer, model)
        return model

    def _score_run(
        self,
        yardstick: Yardstick,
        todo: Sequence[CandidateSpec],
        models: Sequence[Model],
        chunks: Chunks,
        shape: ChunkShape,
    ) -> ScoreRun:
        candidates = [
            CandidateRun(model, spec.type_k, spec.type_v)
            for spec, model in zip(todo, models, strict=True)
        ]
        if yardstick.model is not None and self._with_noise:
            candidates.append(
                CandidateRun(yardstick.model, n_parts=2, n_chunks=self.options.noise_chunks)
            )
        return ScoreRun(
            reference=yardstick.source,
            candidates=candidates,
            tokens=chunks.tokens,
            ctx=chunks.data.ctx,
            shape=shape,
            n_threads=(yardstick.model or models[0]).n_threads,
            with_routes=self.options.router and yardstick.model is not None,
        )

    @property
    def _with_noise(self) -> bool:
        known = self.job.known
        has_floor = known is not None and known.noise_floor is not None
        return self.options.noise_chunks > 0 and not has_floor

    def _key(
        self,
        yardstick: Yardstick,
        todo: Sequence[CandidateSpec],
        chunks: Chunks,
        settings: Settings,
    ) -> dict[str, Any]:
        record = yardstick.record({})
        return {
            "build": asdict(make_build()),
            "data": asdict(chunks.data),
            "settings": asdict(settings),
            "reference": None if record is None else (record.name, record.fingerprint),
            "candidates": [
                (spec.subject.fingerprint, spec.type_k.name, spec.type_v.name) for spec in todo
            ],
            "noise_chunks": self.options.noise_chunks if self._with_noise else 0,
            "router": self.options.router,
        }

    def _summarise(
        self,
        yardstick: Yardstick,
        todo: Sequence[CandidateSpec],
        finished: FinishedScores,
        chunks: Chunks,
        settings: Settings,
        tokenizer: Model,
    ) -> EvalResults:
        reference = finished.reference if yardstick.exists else None
        record = yardstick.record({})
        known = self.job.known
        taken = {candidate.name for candidate in known.candidates} if known is not None else set()
        if record is not None:
            taken.add(record.name)
        names = name_candidates(list(todo), taken)
        own = finished.candidates[: len(todo)]
        candidates = tuple(
            candidate_record(spec, name, scores, reference, chunks.n_scored)
            for spec, name, scores in zip(todo, names, own, strict=True)
        )
        results = new_results(
            yardstick, reference, candidates, chunks, settings, tokenizer.fingerprint
        )
        if reference is not None and len(finished.candidates) > len(todo):
            results = replace(results, noise_floor=_noise(reference, finished, chunks))
        tokens = dict(zip(names, own, strict=True))
        if reference is not None and record is not None:
            tokens[record.name] = reference
        return EvalResults(complete(results, self.job.known), tokens)


def _noise(reference: TokenScores, finished: FinishedScores, chunks: Chunks) -> NoiseFloor:
    again = finished.candidates[-1]
    n_chunks = again.n // chunks.n_scored
    return noise_floor(reference, again, NOISE_DESCRIPTION.format(n=n_chunks))


def _compute(job: EvalJob, run: ScoreRun, chunks: Chunks, key: Mapping[str, Any]) -> FinishedScores:
    """All chunks' scores, those of an interrupted run with the same key included."""
    checkpoint = Checkpoint(job.checkpoint, key) if job.checkpoint is not None else None
    before = checkpoint.load() if checkpoint is not None and job.save_base is None else None
    n_before = before.n_chunks if before is not None else 0
    if before is not None and n_before >= chunks.data.n_chunks:
        return before
    rest = _rest(run, n_before)
    keeper = _Keeper(checkpoint, before, chunks.data.n_chunks, job.progress)
    try:
        with BaseOutput(job.save_base, chunks) as base:
            scores = run_scores(
                rest,
                base_writer=base.attach if job.save_base is not None else None,
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
            candidate,
            n_chunks=candidate.n_chunks - n_done if candidate.n_chunks > n_done else -1,
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
        progress: Callable[[EvaluateProgress], None] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._before = before
        self._n_chunks = n_chunks
        self._progress = progress
        self._saved_at = time.monotonic()
        self._n_kept = before.n_chunks if before is not None else 0

    def tick(self, progress: EvaluateProgress, scores: Scores) -> None:
        n_before = self._before.n_chunks if self._before is not None else 0
        if self._progress is not None:
            done = n_before / self._n_chunks
            self._progress(
                EvaluateProgress(
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
