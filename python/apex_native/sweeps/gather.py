"""From finished jobs to results: blocks joined in the order of the text, statistics as ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from apex_native.engine import Model, Placement
from apex_native.evaluation.divergence.checkpoint import join_scores
from apex_native.evaluation.divergence.noise import NOISE_DESCRIPTION
from apex_native.evaluation.divergence.record import (
    candidate_record,
    complete,
    make_settings,
    new_results,
)
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.shape import ScoreShape
from apex_native.evaluation.divergence.statistics import noise_floor
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.record import results_of
from apex_native.evaluation.tasks.statistics import compare_scores
from apex_native.results import Results, TaskScore, merge_results
from apex_native.sweeps.jobs import Candidate, Job, NoiseJob, ScoreJob, TaskJob
from apex_native.sweeps.payloads import unpack_scores, unpack_task
from apex_native.sweeps.texts import ScoredText

__all__ = ["Gatherer"]


@dataclass(frozen=True, slots=True)
class _Measured:
    """A model that was measured elsewhere: what results say of it, and no weights."""

    name: str
    path: Path | None
    nbytes: int
    bpw: float
    fingerprint: str

    def open(self, placement: Placement) -> AbstractContextManager[Model]:
        raise NotImplementedError(f"{self.name} was measured by workers and is not here")


class Gatherer:
    """Makes results of what a store has; find gives a job's payload, None where it failed."""

    def __init__(
        self,
        reference: ModelUnderTest,
        placement: Placement,
        find: Callable[[Job], bytes | None],
    ) -> None:
        """Remember where to look."""
        self._reference = reference.placed(placement)
        self._placement = placement
        self._find = find

    def text(self, text: ScoredText, candidates: Sequence[Candidate]) -> Results | None:
        """Results of a text, of the candidates that are complete; None where none is."""
        rows, reference = [], None
        n_threads = 1
        for candidate in candidates:
            found = self._joined(text, candidate)
            if found is None:
                continue
            reference, scores, facts = found
            n_threads = facts["n_threads"]
            tested = self._tested(candidate, facts)
            n_scored = text.chunks.n_scored
            row = candidate_record(tested, candidate.name, scores, reference, n_scored)
            rows.append(replace(row, first_not_finite=facts["first_not_finite"]))
        if reference is None:
            return None
        opened = OpenReference(tested=self._reference)
        settings = make_settings(
            [self._reference], text.definition.ctx, self._shape(text, n_threads), n_threads
        )
        results = new_results(opened, reference, tuple(rows), text.chunks, settings, text.tokenizer)
        return complete(self._with_noise(results, text), None)

    def tasks(
        self, jobs: Mapping[str, Sequence[TaskJob]], candidates: Sequence[Candidate]
    ) -> Results | None:
        """Results of tasks, jobs by the model's name; None without any."""
        by_name = {candidate.name: candidate for candidate in candidates}
        scores: dict[str, tuple[TaskScore, ...]] = {}
        tested: dict[str, ModelUnderTest] = {}
        for name, own in jobs.items():
            found = [unpack_task(p) for job in own if (p := self._find(job)) is not None]
            if not found:
                continue
            scores[name] = tuple(score for score, _ in found)
            if name in by_name:
                tested[name] = self._tested(by_name[name], found[0][1])
        if not scores:
            return None
        compared = compare_scores(scores)
        fields = {name: {"tasks": own} for name, own in compared.items()}
        return results_of(self._reference, tested, fields)

    def merged(self, text: Results | None, tasks: Results | None) -> Results | None:
        """Both as one."""
        given = [results for results in (text, tasks) if results is not None]
        return merge_results(given) if given else None

    def _joined(
        self, text: ScoredText, candidate: Candidate
    ) -> tuple[TokenScores, TokenScores, Mapping[str, Any]] | None:
        parts = []
        for block in text.blocks:
            payload = self._find(ScoreJob(candidate, block, text.definition.router))
            if payload is None:
                return None
            parts.append(unpack_scores(payload))
        places = [p.facts["first_not_finite"] for p in parts if p.facts["first_not_finite"]]
        facts = {**parts[0].facts, "first_not_finite": places[0] if places else None}
        reference = reduce(join_scores, [part.reference for part in parts])
        return reference, reduce(join_scores, [part.candidate for part in parts]), facts

    def _with_noise(self, results: Results, text: ScoredText) -> Results:
        noise: NoiseJob | None = text.noise
        payload = None if noise is None else self._find(noise)
        if noise is None or payload is None:
            return results
        found = unpack_scores(payload)
        description = NOISE_DESCRIPTION.format(size=noise.n_positions, n=noise.block.n_chunks)
        floor = noise_floor(found.reference, found.candidate, description)
        return replace(results, noise_floor=floor)

    def _shape(self, text: ScoredText, n_threads: int) -> ScoreShape:
        """What a batch holds; lanes change no result and are each worker's own."""
        block = text.blocks[0]
        sequences = max(1, min(block.n_ubatch // block.ctx, block.n_chunks))
        return ScoreShape(1, n_threads, sequences, min(block.ctx, block.n_ubatch))

    def _tested(self, candidate: Candidate, facts: Mapping[str, Any]) -> ModelUnderTest:
        path = None if candidate.file is None else Path(candidate.file.path)
        name = candidate.name
        source = _Measured(name, path, facts["nbytes"], facts["bpw"], facts["fingerprint"])
        return ModelUnderTest(source, type_k=candidate.type_k, type_v=candidate.type_v, label=name)
