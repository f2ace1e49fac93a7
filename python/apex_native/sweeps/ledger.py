"""What is known, done and failed: results go to the store, progress to whoever watches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from apex_native.sweeps.jobs import Conditions, Job, ScoreJob, job_key
from apex_native.sweeps.payloads import unpack_scores
from apex_native.sweeps.progress import ShowSweep, Standing, SweepProgress
from apex_native.sweeps.store import Entry, SweepStore
from apex_native.sweeps.worker import Outcome

__all__ = ["MAX_KILLS", "Failure", "Ledger"]

MAX_KILLS = 2
"""A job whose worker died with it so often is reported and not tried again."""

TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that gave no result: what it was, and why."""

    label: str
    kind: str
    candidate: str | None
    reason: str


class Ledger:
    """Books of one list of jobs; sizes are the candidates' bytes by name."""

    def __init__(
        self,
        store: SweepStore,
        conditions: Conditions,
        sizes: Mapping[str, int],
        jobs: Sequence[Job],
        show: ShowSweep | None,
    ) -> None:
        """Nothing is known yet: see `open_jobs`."""
        self.store, self.conditions = store, conditions
        self.failures: list[Failure] = []
        self.n_workers = 1
        self._sizes, self._show = sizes, show
        self._n_jobs, self._weight = len(jobs), sum(job.weight for job in jobs)
        self._keys: dict[int, str] = {}
        self._begin = time.monotonic()
        self._told_at = -math.inf
        self._n_known = self._n_done = 0
        self._weight_known = self._weight_done = 0.0
        self._open: dict[tuple[str, str], int] = {}
        self._sums: dict[tuple[str, str], list[tuple[float, int]]] = {}
        self._standings: list[Standing] = []

    def key(self, job: Job) -> str:
        """Its key under this run's conditions."""
        found = self._keys.get(id(job))
        if found is None:
            found = self._keys[id(job)] = job_key(job, self.conditions)
        return found

    def open_jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """Those whose results are not known; of equal ones the first."""
        keys = [self.key(job) for job in jobs]
        known = self.store.known(keys)
        todo: dict[str, Job] = {}
        for job, key in zip(jobs, keys, strict=True):
            if isinstance(job, ScoreJob):
                place = (job.candidate.name, job.block.text)
                self._open[place] = self._open.get(place, 0) + 1
            if key in known or key in todo:
                self._n_known += 1
                self._weight_known += job.weight
            else:
                todo[key] = job
        for job, key in zip(jobs, keys, strict=True):
            if key in known:
                self._count(job, lambda key=key: self.store.payload(key))  # type: ignore[misc]
        return list(todo.values())

    def done(self, job: Job, outcome: Outcome) -> None:
        """Keep a result; OutputError."""
        key = self.key(job)
        self.store.add(
            Entry(key, job.kind, job.label, outcome.payload, outcome.seconds, outcome.memory_bytes,
                  outcome.worker)
        )  # fmt: skip
        self._n_done += 1
        self._weight_done += job.weight
        self._count(job, lambda: outcome.payload)
        self.tell(at_once=True)

    def failed(self, job: Job, reason: str) -> None:
        """Report a job; the sweep goes on."""
        candidate = getattr(job, "candidate", None)
        self.failures.append(
            Failure(job.label, job.kind, None if candidate is None else candidate.name, reason)
        )
        self._weight_done += job.weight
        self.tell(at_once=True)

    def tell(self, *, at_once: bool = False) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if self._show is None or (not at_once and now - self._told_at < TELL_EVERY_S):
            return
        self._told_at = now
        elapsed = now - self._begin
        left = max(0.0, self._weight - self._weight_known - self._weight_done)
        eta = elapsed * left / self._weight_done if self._weight_done else None
        share = (self._weight_known + self._weight_done) / self._weight if self._weight else 1.0
        self._show(
            SweepProgress(
                self._n_jobs, self._n_known, self._n_done, len(self.failures), self.n_workers,
                min(1.0, share), elapsed, eta, tuple(self._standings),
            )
        )  # fmt: skip

    def _count(self, job: Job, payload: Callable[[], bytes]) -> None:
        """A candidate all of whose blocks are there gets a place in the table."""
        if self._show is None or not isinstance(job, ScoreJob):
            return
        place = (job.candidate.name, job.block.text)
        kld = unpack_scores(payload()).candidate.kld
        sums = self._sums.setdefault(place, [])
        sums.append((math.fsum(kld), len(kld)))
        if len(sums) == self._open[place]:
            mean = math.fsum(s for s, _ in sums) / sum(n for _, n in sums)
            nbytes = self._sizes.get(job.candidate.name, 0)
            self._standings.append(Standing(*place, nbytes, mean))
            self._standings.sort(key=lambda row: (math.isnan(row.kld), row.kld))
