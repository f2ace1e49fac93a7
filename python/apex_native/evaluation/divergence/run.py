"""Perplexity and divergence of several models in one pass over a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from apex_native.engine import Model
from apex_native.evaluation.divergence.batches import candidate_batches
from apex_native.evaluation.divergence.checkpoint import Checkpoint, FinishedScores
from apex_native.evaluation.divergence.memory import (
    gpu_reserve,
    require_memory,
    spare_gpu_bytes,
    spare_side_by_side,
)
from apex_native.evaluation.divergence.noise import (
    NOISE_DESCRIPTION,
    NOISE_POSITIONS,
    choose_noise_chunks,
)
from apex_native.evaluation.divergence.not_finite import first_not_finite
from apex_native.evaluation.divergence.one_at_a_time import (
    OneAtATimeJob,
    run_one_at_a_time,
    shape_of_heads,
    shape_of_pass,
    with_batches,
)
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.record import (
    candidate_record,
    complete,
    find_known,
    make_settings,
    new_results,
    require_same_evaluation,
)
from apex_native.evaluation.divergence.reference import (
    AnyReference,
    open_reference,
    require_same_tokenizer,
)
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    ScoreProgress,
    ScoreRun,
    TokenScores,
)
from apex_native.evaluation.divergence.shape import ScoreShape, Workload, shape_of_passes
from apex_native.evaluation.divergence.statistics import noise_floor
from apex_native.evaluation.divergence.text import Text
from apex_native.evaluation.divergence.together import compute_scores
from apex_native.evaluation.divergence.tokenizers import require_same_tokens
from apex_native.evaluation.divergence.two_pass import TwoPassJob, run_two_pass
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_source import ModelSource
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.record import make_build
from apex_native.results import Results

__all__ = ["TextJob", "TextScores", "score_text"]


@dataclass(frozen=True, slots=True)
class TextScores:
    """What was found: `results` as they are stored, and every model's scored positions.

    tokens has the arrays of this run by name, the reference's under its own; models that were
    taken over from earlier results have none.
    """

    results: Results
    tokens: Mapping[str, TokenScores] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextJob:
    """A text for all models: candidates by their names in results, known results to add to."""

    reference: AnyReference
    candidates: Mapping[str, ModelUnderTest]
    text: Text | None
    options: TextOptions
    known: Results | None = None
    save_base: Path | None = None
    checkpoint: Path | None = None
    progress: Callable[[ScoreProgress], None] | None = None


def score_text(job: TextJob, pool: ModelPool) -> TextScores:
    """Load, compute, summarise; the models stay in the pool, or pass through it with two_pass."""
    return _Run(_with_batches(job), pool).run()


def _with_batches(job: TextJob) -> TextJob:
    """The job whose models are told what they will compute, where that decides their place."""
    reference = job.reference
    if isinstance(reference, ModelUnderTest):
        reference = with_batches(reference, job.options, job.text)
    candidates = {
        name: with_batches(model, job.options, job.text) for name, model in job.candidates.items()
    }
    return replace(job, reference=reference, candidates=candidates)


class _Run:
    """The steps of one evaluation, which share what was loaded."""

    def __init__(self, job: TextJob, pool: ModelPool) -> None:
        self.job = job
        self.options = job.options
        self.pool = pool
        self.todo = {
            name: model
            for name, model in job.candidates.items()
            if find_known(job.known, model) is None
        }

    def run(self) -> TextScores:
        self._check_memory()
        if not (self.options.two_pass or self._one_at_a_time):
            self.pool.read_ahead(self.todo.values(), beside=self._models[:1])
        self.reference = open_reference(
            self.job.reference,
            self.pool,
            gpu_reserve=self._gpu_reserve(
                self.job.reference, [] if self.options.two_pass else self.todo.values()
            ),
        )
        tokenizer = self.reference.model or self._load(next(iter(self.job.candidates.values())))
        self.tokenizer_path, self.tokenizer = tokenizer.path, tokenizer.fingerprint
        self.chunks = self.reference.chunks(self.job.text, tokenizer, self.options)
        self.noise_chunks = self._choose_noise_chunks()
        shape = self._shape(tokenizer)
        ctx, n_chunks = self.chunks.data.ctx, self.chunks.data.n_chunks
        passes = shape_of_pass(tokenizer, ctx, n_chunks) if self._one_at_a_time else shape
        self.settings = make_settings(self._models, ctx, passes, tokenizer.n_threads)
        known = self.job.known
        if known is not None:
            require_same_evaluation(known, self.chunks, self.settings, self.reference.row())
            if not self.todo and self.job.save_base is None:
                return TextScores(known)
        run = ScoreRun(
            reference=self.reference,
            candidates=(),
            tokens=self.chunks.tokens,
            ctx=self.chunks.data.ctx,
            shape=shape,
            with_routes=self.options.router and self.reference.model is not None,
        )
        if self._one_at_a_time:
            return self._summarise(self._compute_one_at_a_time(run))
        if self._two_pass:
            return self._summarise(self._compute_two_pass(run))
        return self._summarise(self._compute_together(run))

    @property
    def _models(self) -> Sequence[ModelUnderTest]:
        """All models of the job, the reference first."""
        reference = self.job.reference
        first = [reference] if isinstance(reference, ModelUnderTest) else []
        return [*first, *self.job.candidates.values()]

    @property
    def _on_gpu(self) -> bool:
        return any(model.placement.on_gpu for model in self._models)

    @property
    def _one_at_a_time(self) -> bool:
        """Models are loaded without heads, and what does not fit is streamed."""
        return any(model.placement.one_at_a_time for model in self._models)

    @property
    def _two_pass(self) -> bool:
        return self.options.two_pass and bool(self.todo) and self.reference.model is not None

    def _choose_noise_chunks(self) -> int:
        known = self.job.known
        has_floor = known is not None and known.noise_floor is not None
        if has_floor or self.reference.model is None:
            return 0
        if self.options.noise_chunks is not None:
            return min(self.options.noise_chunks, self.chunks.data.n_chunks)
        if self.reference.model.stream is not None and self.reference.model.stream.layers:
            return 0  # few positions at once would stream the weights many times over
        n_models = 1 + len(self.todo)
        return choose_noise_chunks(self.chunks.data.n_chunks, n_models, on_gpu=self._on_gpu)

    @property
    def _with_noise(self) -> bool:
        return self.noise_chunks > 0

    def _check_memory(self) -> None:
        if not self.options.check_memory:
            return
        todo = [*self.todo.values()]
        if isinstance(self.job.reference, ModelUnderTest):
            todo.append(self.job.reference)
        sources = [model.source for model in todo if not model.placement.on_gpu]
        # The same file is mapped once.
        unique = {
            source if source.path is None else source.path.resolve(): source for source in sources
        }
        require_memory(list(unique.values()), two_pass=self.options.two_pass)

    def _shape(self, tokenizer: Model) -> ScoreShape:
        """What suits every pass: all in one, or the reference's own and those of its candidates."""
        if self._one_at_a_time:
            data = self.chunks.data
            return shape_of_heads(data.ctx, data.n_chunks, tokenizer.n_vocab, tokenizer.n_threads)
        work = Workload(
            ctx=self.chunks.data.ctx,
            n_chunks=self.chunks.data.n_chunks,
            n_vocab=tokenizer.n_vocab,
            n_models=int(self.reference.exists),
            n_threads=tokenizer.n_threads,
            on_gpu=self._on_gpu,
        )
        if not self._two_pass:
            to_come = sum(model.source.nbytes for model in self.todo.values())
            n_models = len(self.todo) + self._with_noise
            passes = [work.beside(n_models, self._spare_gpu_bytes(to_come))]
            return shape_of_passes(passes, self.options.n_ubatch)
        passes = [work.beside(int(self._with_noise), self._spare_gpu_bytes(0))]
        for group in self._together:
            more = sum(model.source.nbytes for model in group) - self._reference_source.nbytes
            passes.append(work.beside(len(group), self._spare_gpu_bytes(more)))
        return shape_of_passes(passes, self.options.n_ubatch)

    def _spare_gpu_bytes(self, to_come: int) -> int | None:
        """What a GPU has free beside so many bytes of candidates; the reference is loaded."""
        if not self._on_gpu:
            return None
        models = list(self.todo.values())
        if models and models[0].placement.devices:
            return spare_side_by_side(models)
        return spare_gpu_bytes(to_come)

    @property
    def _reference_source(self) -> ModelSource:
        assert self.reference.tested is not None
        return self.reference.tested.source

    @cached_property
    def _together(self) -> list[list[ModelUnderTest]]:
        """The candidates that are in memory at the same time: all of them, or in two passes few."""
        models = list(self.todo.values())
        if not self._two_pass:
            return [models]
        sources = [model.source for model in models]
        batches = candidate_batches(self._reference_source, sources)
        return [[models[i] for i in batch] for batch in batches]

    def _load(self, tested: ModelUnderTest) -> Model:
        group = next((group for group in self._together if tested in group), [tested])
        to_come = group[group.index(tested) + 1 :]
        return self.pool.load(tested, gpu_reserve=self._gpu_reserve(tested, to_come))

    def _gpu_reserve(self, first: AnyReference, to_come: Iterable[ModelUnderTest]) -> int:
        return gpu_reserve(first, to_come) if isinstance(first, ModelUnderTest) else 0

    def _candidate(self, tested: ModelUnderTest) -> CandidateRun:
        model = self._load(tested)
        require_same_tokenizer(self.tokenizer, self.tokenizer_path, model)
        if self.job.text is not None and model.path != self.tokenizer_path:
            require_same_tokens(
                self.chunks.tokens, self.tokenizer_path, model, self.job.text,
                parse_special=self.options.parse_special,
            )  # fmt: skip
        return CandidateRun(model, tested.type_k, tested.type_v)

    def _noise(self, shape: ScoreShape) -> CandidateRun | None:
        if not self._with_noise or self.reference.model is None:
            return None
        return CandidateRun(
            self.reference.model,
            n_parts=-(-shape.n_positions // NOISE_POSITIONS),
            n_chunks=self.noise_chunks,
        )

    def _compute_together(self, run: ScoreRun) -> FinishedScores:
        candidates = self._load_together(list(self.todo.values()))
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
        reference = self.reference.tested
        assert reference is not None
        return run_two_pass(
            TwoPassJob(
                run=run,
                chunks=self.chunks,
                noise=self._noise(run.shape),
                batches=[len(group) for group in self._together],
                load=lambda i: self._load_together(self._together[i]),
                read_ahead=lambda i: self.pool.read_ahead(self._together[i]),
                release=lambda i: self._release(self._together[i]),
                release_reference=lambda: self.pool.release(reference),
                save_base=self.job.save_base,
                checkpoint=self._checkpoint(),
                progress=self.job.progress,
            )
        )

    def _compute_one_at_a_time(self, run: ScoreRun) -> FinishedScores:
        reference, todo = self.reference.tested, list(self.todo.values())
        return run_one_at_a_time(
            OneAtATimeJob(
                run=run,
                chunks=self.chunks,
                noise_chunks=self.noise_chunks,
                n_candidates=len(todo),
                load_candidate=lambda i: self._candidate(todo[i]),
                read_ahead=lambda i: self.pool.read_ahead(todo[i : i + 1]),
                release_candidate=lambda i: self.pool.release(todo[i]),
                release_reference=lambda: self._release([reference] if reference else []),
                save_base=self.job.save_base,
                checkpoint=self._checkpoint(),
                progress=self.job.progress,
            )
        )

    def _load_together(self, models: Sequence[ModelUnderTest]) -> list[CandidateRun]:
        self.pool.load_together(models, self._load)
        return [self._candidate(model) for model in models]

    def _release(self, models: Sequence[ModelUnderTest]) -> None:
        for model in models:
            self.pool.release(model)

    def _checkpoint(self) -> Checkpoint | None:
        if self.job.checkpoint is None:
            return None
        row = self.reference.row()
        key = {
            "build": asdict(make_build()),
            "data": asdict(self.chunks.data),
            "settings": asdict(self.settings),
            "reference": None if row is None else (row.name, row.fingerprint),
            "candidates": [
                (model.source.fingerprint, model.type_k.name, model.type_v.name)
                for model in self.todo.values()
            ],
            "noise_chunks": self.noise_chunks,
            "router": self.options.router,
            "two_pass": self._two_pass,
        }
        return Checkpoint(self.job.checkpoint, key)

    def _first_not_finite(self, tested: ModelUnderTest, scores: TokenScores) -> str | None:
        """Loads the model again where two_pass has released it."""
        if scores.is_finite.all() or tested.placement.one_at_a_time:
            return None
        return first_not_finite(self.pool.load(tested), scores, self.chunks)

    def _summarise(self, finished: FinishedScores) -> TextScores:
        reference = finished.reference if self.reference.exists else None
        row = self.reference.row()
        own = finished.candidates[: len(self.todo)]
        n_scored = self.chunks.n_scored
        candidates = tuple(
            replace(
                candidate_record(model, name, scores, reference, n_scored),
                first_not_finite=self._first_not_finite(model, scores),
            )
            for (name, model), scores in zip(self.todo.items(), own, strict=True)
        )
        results = new_results(
            self.reference, reference, candidates, self.chunks, self.settings, self.tokenizer
        )
        if reference is not None and len(finished.candidates) > len(self.todo):
            again = finished.candidates[-1]
            description = NOISE_DESCRIPTION.format(size=NOISE_POSITIONS, n=again.n // n_scored)
            results = replace(results, noise_floor=noise_floor(reference, again, description))
        if reference is not None and results.reference is not None and self.reference.tested:
            where = self._first_not_finite(self.reference.tested, reference)
            results = replace(results, reference=replace(results.reference, first_not_finite=where))
        tokens = dict(zip(self.todo, own, strict=True))
        if reference is not None and row is not None:
            tokens[row.name] = reference
        return TextScores(complete(results, self.job.known), tokens)
