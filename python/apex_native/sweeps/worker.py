"""What carries jobs out: one process' reference, the candidate at hand, and what they compute.

The same class works in the caller's process and in the processes that Ray starts.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_native._native import core
from apex_native.engine import Model, Placement
from apex_native.evaluation import ModelFile, ModelSource, PlannedModel
from apex_native.evaluation.divergence.not_finite import first_not_finite
from apex_native.evaluation.divergence.reference import require_same_tokenizer
from apex_native.evaluation.divergence.scores import CandidateRun, TokenScores
from apex_native.evaluation.divergence.text import Chunks
from apex_native.evaluation.model_under_test import cache_type
from apex_native.evaluation.tasks import TaskKind, TaskOptions, TaskSpec, open_tasks, score_task
from apex_native.evaluation.tasks.score import ScoringOptions
from apex_native.imatrix import load_imatrix
from apex_native.imatrix.collect import plan_collection
from apex_native.imatrix.collection import Collection
from apex_native.machine import cpu_features, cpu_name, gpu_names, own_memory
from apex_native.plan import Plan
from apex_native.results import TextData
from apex_native.sweeps.jobs import (
    Block,
    Candidate,
    Job,
    MatrixJob,
    NoiseJob,
    ProbeJob,
    ScoreJob,
    SharedFile,
    TaskJob,
)
from apex_native.sweeps.local_files import LocalFiles
from apex_native.sweeps.payloads import (
    BlockScores,
    BlockSums,
    pack_scores,
    pack_sums,
    pack_task,
)
from apex_native.sweeps.probes import OpenProbes
from apex_native.sweeps.reference_states import ReferenceStates

__all__ = ["Outcome", "Worker", "WorkerFacts", "WorkerSettings", "worker_facts"]


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What all workers of a sweep must have in common (all but host), and where one is."""

    version: str
    llama_cpp_commit: str
    compiler: str
    extension: str
    device: str
    host: str


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is made with; siblings: all blocks of each text, by its name."""

    reference: SharedFile
    placement: Placement
    cache: Path
    largest_candidate: int = 0
    siblings: dict[str, tuple[Block, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job gave, and what it took."""

    payload: bytes
    seconds: float
    memory_bytes: int
    worker: str


def worker_facts(placement: Placement) -> WorkerFacts:
    """Those of this process."""
    info = core.build_info()
    if placement.on_gpu:
        device = "GPU: " + (gpu_names() or ("unknown",))[0]
    else:
        device = f"CPU: {cpu_name()} ({' '.join(cpu_features())})"
    return WorkerFacts(
        version=info["version"],
        llama_cpp_commit=info["llama_cpp_commit"],
        compiler=info.get("compiler") or "unknown",
        extension=_extension_digest(),
        device=device,
        host=os.uname().nodename,
    )


def _extension_digest() -> str:
    """Two builds of one version can differ; what computes is this one file."""
    path = sys.modules["apex_native._core"].__file__
    assert path is not None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Worker:
    """Carries out one job after the other; `close` frees what it holds."""

    def __init__(self, settings: WorkerSettings, files: LocalFiles) -> None:
        """Nothing is loaded yet."""
        self._settings = settings
        self._files = files
        self._name = f"{os.uname().nodename}:{os.getpid()}"
        self._references: ReferenceStates | None = None
        self._candidate: _OpenCandidate | None = None
        self._probes: tuple[tuple[SharedFile | None, int], OpenProbes] | None = None

    def run(self, job: Job) -> Outcome:
        """Do it; errors are those of the stages: ModelError, GgufError, OutputError, ..."""
        begin = time.monotonic()
        if isinstance(job, ScoreJob):
            payload = self._score(job)
        elif isinstance(job, NoiseJob):
            payload = self._noise(job)
        elif isinstance(job, TaskJob):
            payload = self._ask(job)
        elif isinstance(job, ProbeJob):
            payload = self._probe(job)
        else:
            payload = self._collect(job)
        return Outcome(payload, time.monotonic() - begin, own_memory(), self._name)

    def close(self) -> None:
        """Free the models."""
        self._close_candidate()
        self._close_probes()
        if self._references is not None:
            self._references.close()

    @property
    def references(self) -> ReferenceStates:
        """The reference of this worker."""
        if self._references is None:
            settings = self._settings
            path = self._files.path(settings.reference)
            self._references = ReferenceStates(path, settings.placement, settings.largest_candidate)
        return self._references

    def _score(self, job: ScoreJob) -> bytes:
        block = job.block
        siblings = self._settings.siblings.get(block.text, ())
        stored = self.references.of(block, router=job.router, siblings=siblings)
        opened = self._open(job.candidate)
        require_same_tokenizer(
            self.references.tokenizer, self._settings.reference.path, opened.model
        )
        run = CandidateRun(
            opened.model, cache_type(job.candidate.type_k), cache_type(job.candidate.type_v)
        )
        reference, scores = stored.score(run)
        facts = self._facts(opened, block)
        facts["first_not_finite"] = _where_not_finite(opened.model, scores, block)
        return pack_scores(BlockScores(reference, scores, facts))

    def _noise(self, job: NoiseJob) -> bytes:
        self._close_candidate()
        reference, again = self.references.again(job.block, job.n_positions)
        return pack_scores(BlockScores(reference, again, {}))

    def _ask(self, job: TaskJob) -> bytes:
        path = self._files.path(job.file)
        spec = TaskSpec(TaskKind(job.task_kind), str(path), job.task)
        (task,) = open_tasks(TaskOptions((spec,), job.n_tasks))
        if job.candidate is None:
            self._close_candidate()
            return pack_task(score_task(self.references.model, task.file, task.selection), {})
        opened = self._open(job.candidate)
        options = ScoringOptions(
            type_k=cache_type(job.candidate.type_k), type_v=cache_type(job.candidate.type_v)
        )
        score = score_task(opened.model, task.file, task.selection, options=options)
        return pack_task(score, self._facts(opened))

    def _probe(self, job: ProbeJob) -> bytes:
        """In a reference of its own, which ggml did not rearrange."""
        self._close_candidate()
        if self._references is not None:
            self._references.make_room()
        key = (job.matrix, job.block.ctx)
        if self._probes is None or self._probes[0] != key:
            self._close_probes()
            path = self._files.path(self._settings.reference)
            matrix = None if job.matrix is None else self._files.path(job.matrix)
            opened = OpenProbes(path, matrix, job.block.ctx, self._settings.placement)
            self._probes = (key, opened)
        return self._probes[1].run(job)

    def _close_probes(self) -> None:
        if self._probes is not None:
            self._probes[1].close()
            self._probes = None

    def _collect(self, job: MatrixJob) -> bytes:
        """Inputs are counted with the MTP block loaded, which the reference of scores is not."""
        self._close_candidate()
        path = self._files.path(self._settings.reference)
        with self._settings.placement.load(path, load_mtp=True) as model:
            plan = plan_collection(model, job.block.array, ctx=job.block.ctx, batch=job.batch)
            settings = plan.settings(model)
            with Collection(model, plan, settings) as collection:
                state = collection.run(None, None)
                if collection.mtp_reason:
                    settings["mtp_reason"] = collection.mtp_reason
        return pack_sums(BlockSums(tuple(state.entries), settings))

    def _facts(self, opened: _OpenCandidate, block: Block | None = None) -> dict[str, Any]:
        """What results say of a candidate."""
        source = opened.source
        facts: dict[str, Any] = {
            "nbytes": source.nbytes,
            "bpw": source.bpw,
            "fingerprint": source.fingerprint,
            "n_threads": opened.model.n_threads,
        }
        if block is not None:
            facts["tokenizer"] = opened.model.fingerprint
        return facts

    def _open(self, candidate: Candidate) -> _OpenCandidate:
        self._close_probes()
        if self._candidate is None or self._candidate.weights != candidate.weights:
            self._close_candidate()
            if self._references is not None:
                self._references.make_room()
            self._candidate = _OpenCandidate(candidate, self._settings, self._files)
        return self._candidate

    def _close_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate.close()
            self._candidate = None


class _OpenCandidate:
    """A candidate's weights, made or found, and loaded."""

    def __init__(self, candidate: Candidate, settings: WorkerSettings, files: LocalFiles) -> None:
        self.weights = candidate.weights
        self._stack = ExitStack()
        try:
            self.source = self._make(candidate, settings, files)
            self.model: Model = self._stack.enter_context(self.source.open(settings.placement))
        except BaseException:
            self._stack.close()
            raise

    def _make(
        self, candidate: Candidate, settings: WorkerSettings, files: LocalFiles
    ) -> ModelSource:
        if candidate.file is not None:
            return ModelFile.describe(files.path(candidate.file))
        assert candidate.plan is not None
        matrix = None if candidate.matrix is None else load_imatrix(files.path(candidate.matrix))
        planned = PlannedModel(
            files.path(settings.reference),
            Plan.from_json(candidate.plan),
            imatrix=matrix,
            n_threads=settings.placement.n_threads,
        )
        self._stack.callback(planned.close)
        return planned

    def close(self) -> None:
        self._stack.close()


def _where_not_finite(model: Model, scores: TokenScores, block: Block) -> str | None:
    if scores.is_finite.all():
        return None
    data = TextData(block.text, "", 0, block.n_chunks, block.ctx, False, False)
    return first_not_finite(model, scores, Chunks(block.array, data))
