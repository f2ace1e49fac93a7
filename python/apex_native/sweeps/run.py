"""A sweep from question to results: matrices, then candidates, then files; known jobs are free."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from apex_native.api import report
from apex_native.demo import cache_folder
from apex_native.engine import Model, Placement, load_model
from apex_native.errors import Cancelled, DataError
from apex_native.evaluation import ModelUnderTest
from apex_native.gguf import open_gguf
from apex_native.interrupt import cancellable
from apex_native.requirements import Work, require_able
from apex_native.results import Results
from apex_native.sweeps.candidates import CandidateSet, choices_of, make_candidates
from apex_native.sweeps.cluster import Cluster
from apex_native.sweeps.crew import Crew, EmbeddedCrew
from apex_native.sweeps.definition import SweepDefinition
from apex_native.sweeps.gather import Gatherer
from apex_native.sweeps.jobs import (
    Candidate,
    Conditions,
    Job,
    ScoreJob,
    SharedFile,
    TaskJob,
    job_key,
)
from apex_native.sweeps.ledger import Failure, Ledger
from apex_native.sweeps.local_files import shared_file, shared_model
from apex_native.sweeps.matrices import save_matrix
from apex_native.sweeps.output import SweepFolder
from apex_native.sweeps.payloads import unpack_sums
from apex_native.sweeps.probes import make_probe_jobs, write_probes
from apex_native.sweeps.progress import ShowSweep
from apex_native.sweeps.store import Entry, SweepStore
from apex_native.sweeps.texts import MatrixText, cut_matrix_text, cut_text
from apex_native.sweeps.worker import WorkerSettings

__all__ = ["SweepOutcome", "run_sweep"]


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What came of it: results by text (``""`` where there are tasks only), and their files.

    failures: jobs that gave nothing, in this run. skipped: candidates that cannot be made, with
    the reason. n_known jobs were taken from the store, n_done computed.
    """

    folder: Path
    results: Mapping[str, Results]
    files: tuple[Path, ...]
    failures: tuple[Failure, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    n_known: int = 0
    n_done: int = 0
    seconds: float = 0.0


def run_sweep(
    definition: SweepDefinition,
    folder: SweepFolder,
    *,
    placement: Placement,
    cluster: Cluster | None,
    with_report: bool = True,
    progress: ShowSweep | None = None,
    cancel: threading.Event | None = None,
) -> SweepOutcome:
    """Carry it out; see `apex_native.sweep`."""
    with cancellable(cancel):
        return _Sweep(definition, folder, placement, cluster, progress).run(with_report)


class _Sweep:
    """The steps, which share the store, the workers and the reference."""

    def __init__(
        self,
        definition: SweepDefinition,
        folder: SweepFolder,
        placement: Placement,
        cluster: Cluster | None,
        progress: ShowSweep | None,
    ) -> None:
        self.definition, self.folder = definition, folder
        self.placement, self.cluster, self.progress = placement, cluster, progress
        self.begin = time.monotonic()
        self.tested = ModelUnderTest(definition.reference)
        self.reference = shared_model(definition.reference)
        self.choices = choices_of(definition)
        self.task_files = {task.name: shared_file(task.path) for task in definition.tasks}
        self._require_able()

    def _require_able(self) -> None:
        wanted = {
            Work.EVALUATION: bool(self.definition.texts),
            Work.TASKS: bool(self.definition.tasks),
            Work.CALIBRATION: any(
                m.file is None for some in self.definition.matrices.values() for m in some
            ),
        }
        for work in (work for work, is_wanted in wanted.items() if is_wanted):
            require_able(self.definition.reference, work)

    def run(self, with_report: bool) -> SweepOutcome:
        with ExitStack() as stack:
            self.store = stack.enter_context(SweepStore(self.folder.store))
            with load_model(self.definition.reference, vocab_only=True) as tokenizer:
                self._cut(tokenizer)
            self.settings = WorkerSettings(
                self.reference,
                self.placement,
                cache_folder() / "sweep",
                siblings={text.definition.name: text.blocks for text in self.texts},
            )
            self.crew = stack.enter_context(_start(self.settings, self.cluster, self.store))
            facts = self.crew.facts
            self.conditions = Conditions(
                facts.version, facts.llama_cpp_commit, facts.compiler, facts.device,
                _placed(self.placement), self.reference.digest,
            )  # fmt: skip
            try:
                return self._carry_out(with_report)
            except (KeyboardInterrupt, Cancelled) as stop:
                stop.add_note("what is done is kept; go on with `resume=True`")
                raise

    def _cut(self, tokenizer: Model) -> None:
        definition = self.definition
        self.texts = tuple(
            cut_text(
                text, tokenizer,
                on_gpu=self.placement.on_gpu, n_candidates=len(self.choices),
            )
            for text in definition.texts
        )  # fmt: skip
        self.matrix_texts = tuple(
            cut_matrix_text(matrix, definition.reference, tokenizer, self.placement)
            for some in definition.matrices.values()
            for matrix in some
            if matrix.file is None
        )

    def _carry_out(self, with_report: bool) -> SweepOutcome:
        matrices = self._matrices()
        with open_gguf(self.definition.reference) as source:
            made = make_candidates(source, self.choices, matrices)
            blocks = [block for text in self.texts for block in text.blocks]
            self.probes = make_probe_jobs(source, self.definition.probes, blocks, matrices)
        jobs = self._jobs(made)
        ledger = self._ledger(jobs, made.nbytes)
        largest = max((made.nbytes[candidate.name] for candidate in made.candidates), default=0)
        todo = ledger.open_jobs(jobs)
        if todo:
            self.crew.run(todo, replace(self.settings, largest_candidate=largest), ledger)
        results, files = self._gather(made, with_report)
        return SweepOutcome(
            self.folder.path,
            results,
            files,
            tuple(ledger.failures),
            made.skipped,
            self.n_summed_before + len(jobs) - len(todo),
            self.n_summed + len(todo) - len(ledger.failures),
            time.monotonic() - self.begin,
        )

    def _ledger(self, jobs: Sequence[Job], sizes: Mapping[str, int]) -> Ledger:
        return Ledger(self.store, self.conditions, sizes, jobs, self.progress)

    # --- matrices -------------------------------------------------------------------------------

    def _matrices(self) -> dict[str, SharedFile]:
        """Every matrix of the sweep as a file, collected where need be."""
        found = {
            matrix.name: shared_file(matrix.file)
            for some in self.definition.matrices.values()
            for matrix in some
            if matrix.file is not None
        }
        jobs = [job for text in self.matrix_texts for job in text.jobs]
        ledger = self._ledger(jobs, {})
        missing = []
        for text in self.matrix_texts:
            path, key = self.folder.matrix(text.definition.name), self._merged_key(text, ledger)
            if self.store.known([key]) and path.exists():
                file = shared_file(path)
                if file.digest.encode() == self.store.payload(key):
                    found[text.definition.name] = file
                    continue
            missing.append(text)
        todo = ledger.open_jobs([job for text in missing for job in text.jobs])
        self.n_summed, self.n_summed_before = len(todo), len(jobs) - len(todo)
        if todo:
            self.crew.run(todo, self.settings, ledger)
        for text in missing:
            found[text.definition.name] = self._merge(text, ledger)
        return found

    def _merge(self, text: MatrixText, ledger: Ledger) -> SharedFile:
        keys = [ledger.key(job) for job in text.jobs]
        known = self.store.known(keys)
        if len(known) < len(keys):
            first = ledger.failures[0]
            raise DataError(f"matrix '{text.definition.name}': {first.label}: {first.reason}")
        path = self.folder.matrix(text.definition.name)
        save_matrix(text, (unpack_sums(self.store.payload(key)) for key in keys), path)
        file = shared_file(path)
        merged = self._merged_key(text, ledger)
        self.store.forget([merged])
        self.store.add(
            Entry(merged, "merged", path.name, file.digest.encode(), 0.0, 0, self.crew.facts.host)
        )
        self.store.forget(keys)
        return file

    def _merged_key(self, text: MatrixText, ledger: Ledger) -> str:
        parts = "\n".join([text.dataset, *(ledger.key(job) for job in text.jobs)])
        return hashlib.sha256(f"merged\n{parts}".encode()).hexdigest()

    # --- candidates -----------------------------------------------------------------------------

    def _jobs(self, made: CandidateSet) -> list[Job]:
        jobs: list[Job] = []
        if made.candidates:
            jobs += [text.noise for text in self.texts if text.noise is not None]
            jobs += self._task_jobs(None)
        for candidate in made.candidates:
            for text in self.texts:
                router = text.definition.router
                jobs += [ScoreJob(candidate, block, router) for block in text.blocks]
            jobs += self._task_jobs(candidate)
        return [*jobs, *self.probes]

    def _task_jobs(self, candidate: Candidate | None) -> list[TaskJob]:
        return [
            TaskJob(candidate, task.name, task.kind.value, self.task_files[task.name], task.n_tasks)
            for task in self.definition.tasks
        ]

    # --- results --------------------------------------------------------------------------------

    def _gather(
        self, made: CandidateSet, with_report: bool
    ) -> tuple[dict[str, Results], tuple[Path, ...]]:
        def find(job: Job) -> bytes | None:
            key = job_key(job, self.conditions)
            return self.store.payload(key) if self.store.known([key]) else None

        gatherer = Gatherer(self.tested, self.placement, find)
        candidates = made.candidates
        asked = {self.tested.name: self._task_jobs(None)}
        asked |= {candidate.name: self._task_jobs(candidate) for candidate in candidates}
        tasks = gatherer.tasks(asked, candidates)
        by_text: dict[str, Results] = {}
        for name, text in [(t.definition.name, t) for t in self.texts]:
            found = gatherer.merged(gatherer.text(text, candidates), tasks)
            if found is not None:
                by_text[name] = found
        if not self.texts and tasks is not None:
            by_text[""] = tasks
        probes = write_probes(self.probes, find, self.folder.path)
        return by_text, (*self._written(by_text, with_report), *probes)

    def _written(self, by_text: Mapping[str, Results], with_report: bool) -> Iterator[Path]:
        for name, results in by_text.items():
            label = name if len(self.texts) > 1 else None
            results.save(self.folder.results(label))
            yield self.folder.results(label)
            if with_report:
                yield from report(results, self.folder.report(label), force=True).files


def _placed(placement: Placement) -> str:
    """What of it moves numbers, in their last digits at least."""
    layers = placement.n_gpu_layers if placement.on_gpu else 0
    return f"flash_attn {placement.flash_attn}, repack {placement.repack}, GPU layers {layers}"


def _start(
    settings: WorkerSettings, cluster: Cluster | None, store: SweepStore
) -> AbstractContextManager[Crew]:
    if cluster is None:
        return nullcontext(EmbeddedCrew(settings))
    from apex_native.sweeps.ray_crew import RayCrew

    return RayCrew(settings, cluster, store.memory_bytes())
