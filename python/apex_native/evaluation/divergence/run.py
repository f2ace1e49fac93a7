"""Perplexity and divergence of several models in one pass over a text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from apex_native.engine import Model, load_model
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores
from apex_native.evaluation.divergence.memory import require_memory
from apex_native.evaluation.divergence.options import EvalOptions
from apex_native.evaluation.divergence.record import (
    candidate_record,
    complete,
    find_known,
    make_build,
    make_settings,
    new_results,
    require_same_evaluation,
)
from apex_native.evaluation.divergence.reference import (
    is_base_file,
    open_reference,
    require_same_tokenizer,
)
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    EvaluateProgress,
    ScoreRun,
    TokenScores,
)
from apex_native.evaluation.divergence.shape import ChunkShape, Workload, choose_shape
from apex_native.evaluation.divergence.statistics import noise_floor
from apex_native.evaluation.divergence.subject import CandidateSpec, describe, name_candidates
from apex_native.evaluation.divergence.text import Text
from apex_native.evaluation.divergence.together import compute_scores
from apex_native.evaluation.divergence.two_pass import TwoPassJob, run_two_pass
from apex_native.results import Results

__all__ = ["EvalJob", "EvalResults", "run_job"]

NOISE_POSITIONS = 32
"""Positions at once when the reference is computed again: few enough that llama.cpp takes its code
for small batches, which rounds differently."""

NOISE_DESCRIPTION = "reference again, {size} positions at a time, first {n} chunks"


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
        self.todo = [spec for spec in self.specs if find_known(job.known, spec) is None]

    def run(self) -> EvalResults:
        self._check_memory()
        self.yardstick = open_reference(self.job.reference, self.options, self.stack)
        tokenizer = self.yardstick.model or self._load(self.specs[0])
        self.tokenizer_path, self.tokenizer = tokenizer.path, tokenizer.fingerprint
        self.chunks = self.yardstick.chunks(self.job.text, tokenizer, self.options)
        shape = self._shape(tokenizer)
        self.settings = make_settings(
            self.options, self.chunks.data.ctx, shape, tokenizer.n_threads
        )
        known = self.job.known
        if known is not None:
            require_same_evaluation(known, self.chunks, self.settings, self.yardstick.record({}))
            if not self.todo:
                return EvalResults(known)
        run = ScoreRun(
            reference=self.yardstick.source,
            candidates=(),
            tokens=self.chunks.tokens,
            ctx=self.chunks.data.ctx,
            shape=shape,
            with_routes=self.options.router and self.yardstick.model is not None,
        )
        if self._two_pass:
            return self._summarise(self._compute_two_pass(run))
        return self._summarise(self._compute_together(run, tokenizer))

    @property
    def _two_pass(self) -> bool:
        return self.options.two_pass and self.yardstick.model is not None

    @property
    def _with_noise(self) -> bool:
        known = self.job.known
        has_floor = known is not None and known.noise_floor is not None
        return self.options.noise_chunks > 0 and not has_floor and self.yardstick.model is not None

    def _check_memory(self) -> None:
        subjects = [spec.subject for spec in self.todo]
        if self.job.reference is not None and not is_base_file(self.job.reference):
            subjects.append(describe(self.job.reference))
        if self.options.check_memory and not self.options.on_gpu:
            # The same file is mapped once.
            unique = {subject.path.resolve(): subject for subject in subjects}
            require_memory(list(unique.values()), two_pass=self.options.two_pass)

    def _shape(self, tokenizer: Model) -> ChunkShape:
        together = 1 if self._two_pass else len(self.todo)
        work = Workload(
            ctx=self.chunks.data.ctx,
            n_chunks=self.chunks.data.n_chunks,
            n_vocab=tokenizer.n_vocab,
            n_models=together + self.yardstick.exists + self._with_noise,
            n_threads=tokenizer.n_threads,
            on_gpu=self.options.on_gpu,
        )
        return choose_shape(work, self.options.n_ubatch)

    def _load(self, spec: CandidateSpec) -> Model:
        return self.stack.enter_context(load_model(spec.subject.path, **self.options.load))

    def _candidate(self, spec: CandidateSpec, loaded: Model | None = None) -> CandidateRun:
        same_file = loaded is not None and Path(loaded.path) == spec.subject.path
        model = loaded if loaded is not None and same_file else self._load(spec)
        require_same_tokenizer(self.tokenizer, self.tokenizer_path, model)
        return CandidateRun(model, spec.type_k, spec.type_v)

    def _noise(self, shape: ChunkShape) -> CandidateRun | None:
        if not self._with_noise or self.yardstick.model is None:
            return None
        return CandidateRun(
            self.yardstick.model,
            n_parts=-(-shape.n_positions // NOISE_POSITIONS),
            n_chunks=self.options.noise_chunks,
        )

    def _compute_together(self, run: ScoreRun, loaded: Model) -> FinishedScores:
        candidates = [self._candidate(spec, loaded) for spec in self.todo]
        noise = self._noise(run.shape)
        if noise is not None:
            candidates.append(noise)
        return compute_scores(
            replace(run, candidates=candidates),
            self.chunks,
            self._checkpoint(),
            save_base=self.job.save_base,
            progress=self.job.progress,
        )

    def _compute_two_pass(self, run: ScoreRun) -> FinishedScores:
        reference = self.yardstick.model
        assert reference is not None
        return run_two_pass(
            TwoPassJob(
                run=run,
                noise=self._noise(run.shape),
                n_candidates=len(self.todo),
                load_candidate=lambda i: self._candidate(self.todo[i]),
                close_reference=reference.close,
                checkpoint=self._checkpoint(),
                progress=self.job.progress,
            )
        )

    def _checkpoint(self) -> Checkpoint | None:
        if self.job.checkpoint is None:
            return None
        record = self.yardstick.record({})
        key = {
            "build": asdict(make_build()),
            "data": asdict(self.chunks.data),
            "settings": asdict(self.settings),
            "reference": None if record is None else (record.name, record.fingerprint),
            "candidates": [
                (spec.subject.fingerprint, spec.type_k.name, spec.type_v.name) for spec in self.todo
            ],
            "noise_chunks": self.options.noise_chunks if self._with_noise else 0,
            "router": self.options.router,
            "two_pass": self._two_pass,
        }
        return Checkpoint(self.job.checkpoint, key)

    def _summarise(self, finished: FinishedScores) -> EvalResults:
        reference = finished.reference if self.yardstick.exists else None
        record = self.yardstick.record({})
        known = self.job.known
        taken = {candidate.name for candidate in known.candidates} if known is not None else set()
        if record is not None:
            taken.add(record.name)
        names = name_candidates(self.todo, taken)
        own = finished.candidates[: len(self.todo)]
        n_scored = self.chunks.n_scored
        candidates = tuple(
            candidate_record(spec, name, scores, reference, n_scored)
            for spec, name, scores in zip(self.todo, names, own, strict=True)
        )
        results = new_results(
            self.yardstick, reference, candidates, self.chunks, self.settings, self.tokenizer
        )
        if reference is not None and len(finished.candidates) > len(self.todo):
            again = finished.candidates[-1]
            description = NOISE_DESCRIPTION.format(size=NOISE_POSITIONS, n=again.n // n_scored)
            results = replace(results, noise_floor=noise_floor(reference, again, description))
        tokens = dict(zip(names, own, strict=True))
        if reference is not None and record is not None:
            tokens[record.name] = reference
        return EvalResults(complete(results, known), tokens)
