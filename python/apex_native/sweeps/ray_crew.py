"""Workers of a Ray cluster. Ray places them and starts them again; here it is decided what a job's
end means: a result, a mistake of the job, trouble of a machine, or a worker that died of it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from apex_native.closable import Closable
from apex_native.errors import DataError, OutputError
from apex_native.interrupt import POLL_S, check_cancelled
from apex_native.sweeps.cluster import Cluster
from apex_native.sweeps.crew import describe_error
from apex_native.sweeps.jobs import Job
from apex_native.sweeps.ledger import MAX_KILLS, Ledger
from apex_native.sweeps.queue import JobQueue
from apex_native.sweeps.ray_setup import connected, plan_workers
from apex_native.sweeps.ray_worker import FileServer, RayWorker
from apex_native.sweeps.worker import WorkerFacts, WorkerSettings, worker_facts

__all__ = ["RayCrew"]

START_S = 300.0
"""A worker may take so long to appear, on a cluster that is busy or growing."""

_logger = logging.getLogger("apex_native.sweep")


@dataclass(slots=True)
class _Flight:
    """What a worker was asked, and when; job None: whether it is there."""

    worker: int
    job: Job | None
    since: float


class RayCrew(Closable):
    """Use it in a ``with`` statement: workers exist, and agree, inside of it."""

    def __init__(self, settings: WorkerSettings, cluster: Cluster, measured_bytes: int) -> None:
        """Remember what to start."""
        self._settings, self._cluster = settings, cluster
        self._measured_bytes = measured_bytes
        self._stack = ExitStack()
        self._ray: Any = None
        self._actors: list[Any] = []
        self._ready: set[int] = set()
        self._flights: dict[Any, _Flight] = {}
        self._facts: WorkerFacts | None = None

    def __enter__(self) -> Self:
        try:
            self._ray = self._stack.enter_context(connected(self._cluster.address))
            self._stack.callback(self._end_workers)
            self._start_workers()
            self._wait_for_first()
        except BaseException:
            self._stack.close()
            raise
        return self

    def close(self) -> None:
        """End the workers, and Ray where it was started for them."""
        self._stack.close()

    @property
    def facts(self) -> WorkerFacts:
        """What all workers have in common."""
        assert self._facts is not None
        return self._facts

    @property
    def actors(self) -> Sequence[Any]:
        """Ray's handles of the workers (`RayWorker`)."""
        return self._actors

    # --- starting -------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        ray, placement = self._ray, self._settings.placement
        plan = plan_workers(ray, placement, self._cluster.workers, self._measured_bytes)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        server = ray.remote(num_cpus=0, scheduling_strategy=here)(FileServer).remote()
        self._placement = replace(placement, n_threads=plan.n_threads)
        options: dict[str, Any] = {
            "num_cpus": plan.n_threads,
            "num_gpus": plan.n_gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        if plan.memory:
            options["memory"] = plan.memory
        actor = ray.remote(**options)(RayWorker)
        self._server = server
        self._actors = [actor.remote(self._placement) for _ in range(plan.n_workers)]
        for worker in range(plan.n_workers):
            self._ask_for(worker)

    def _end_workers(self) -> None:
        for actor in (*self._actors, self._server):
            self._ray.kill(actor)

    def _ask_for(self, worker: int) -> None:
        future = self._actors[worker].facts.remote()
        self._flights[future] = _Flight(worker, None, time.monotonic())

    def _wait_for_first(self) -> None:
        """All workers that come soon must agree; the others join when they come."""
        deadline = time.monotonic() + START_S
        patience = deadline
        while self._flights and time.monotonic() < patience:
            check_cancelled()
            for future in self._landed():
                worker = self._flights.pop(future).worker
                self._admit(worker, self._told_facts(future))
            if self._ready and patience == deadline:
                # One is there: the others have as long again as it took, and a little more.
                patience = min(deadline, time.monotonic() + 10.0)
        if not self._ready:
            raise DataError(
                f"no worker came up within {START_S:.0f} seconds; `ray status` shows what the "
                "cluster waits for"
            )

    def _told_facts(self, future: Any) -> WorkerFacts:
        try:
            facts: WorkerFacts = self._ray.get(future)
        except self._ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise DataError(
                f"a worker could not start: {lines[-1].strip() if lines else error}; install the "
                "same apex-native on every machine"
            ) from error
        return facts

    def _admit(self, worker: int, facts: WorkerFacts) -> None:
        """Raise DataError for a worker that computes with something else than the others."""
        ours = worker_facts(self._placement)
        expected = self._facts or replace(ours, device=facts.device)
        different = [
            f"{name} is {theirs[:60]} there and {known[:60]} {'on ' + expected.host}"
            for name, theirs in asdict(facts).items()
            if name != "host" and theirs != (known := asdict(expected)[name])
        ]
        if different:
            raise DataError(
                f"the machine {facts.host} cannot take part: {'; '.join(different)}; results would "
                "mix; install one build everywhere and use machines of one kind"
            )
        self._facts = self._facts or facts
        self._ready.add(worker)

    # --- working --------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], settings: WorkerSettings, ledger: Ledger) -> None:
        """Hand out jobs until all have ended."""
        run = _Run(self, replace(settings, placement=self._placement), ledger, jobs)
        while run.is_unfinished:
            check_cancelled()
            ledger.n_workers = len(self._ready)
            ledger.tell()
            for future in self._landed():
                run.land(future, self._flights.pop(future))
            run.hand_out()
            self._require_workers()

    def _landed(self) -> list[Any]:
        landed: list[Any]
        landed, _ = self._ray.wait(list(self._flights), num_returns=1, timeout=POLL_S)
        return landed

    def _require_workers(self) -> None:
        if any(flight.job is not None for flight in self._flights.values()):
            return
        since = [flight.since for flight in self._flights.values()]
        if not self._ready and (not since or time.monotonic() - min(since) > START_S):
            raise DataError(
                "no worker is left; what is done is kept: see to the machines and go on with "
                "`resume=True`"
            )


class _Run:
    """One list of jobs on the workers of a crew."""

    def __init__(
        self, crew: RayCrew, settings: WorkerSettings, ledger: Ledger, jobs: Sequence[Job]
    ) -> None:
        self.crew, self.ledger = crew, ledger
        self.queue = JobQueue(jobs)
        self.settings = [crew._ray.put(settings), crew._server]
        self.kills: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.idle = set(crew._ready)
        self.n_flying = 0

    @property
    def is_unfinished(self) -> bool:
        return bool(self.queue) or self.n_flying > 0

    def hand_out(self) -> None:
        for worker in sorted(self.idle):
            job = self.queue.next(worker)
            if job is None:
                return
            self.idle.remove(worker)
            self.n_flying += 1
            future = self.crew._actors[worker].run.remote(job, self.settings)
            self.crew._flights[future] = _Flight(worker, job, time.monotonic())

    def land(self, future: Any, flight: _Flight) -> None:
        """A worker is back, or gone."""
        errors = self.crew._ray.exceptions
        if flight.job is None:
            self._arrived(future, flight.worker)
            return
        self.n_flying -= 1
        try:
            outcome = self.crew._ray.get(future)
        except errors.RayTaskError as error:
            self._job_raised(flight.worker, flight.job, error.cause)
        except errors.RayError as error:
            self._worker_died(flight.worker, flight.job, error)
        else:
            self.idle.add(flight.worker)
            self.ledger.done(flight.job, outcome)

    def _arrived(self, future: Any, worker: int) -> None:
        try:
            self.crew._admit(worker, self.crew._ray.get(future))
        except (self.crew._ray.exceptions.ActorUnavailableError, ConnectionError):
            self.crew._ask_for(worker)  # it is being started again
        except (self.crew._ray.exceptions.RayError, DataError) as error:
            _logger.warning("a worker does not take part: %s", describe_error(error))
        else:
            self.idle.add(worker)

    def _job_raised(self, worker: int, job: Job, error: BaseException) -> None:
        """A machine without room gets no more jobs; its job goes to another, where there is one."""
        key = self.ledger.key(job)
        if isinstance(error, OutputError | MemoryError):
            self.troubles[key] += 1
            self.crew._ready.discard(worker)
            _logger.warning("a worker takes no more jobs: %s", describe_error(error))
            if self.troubles[key] < MAX_KILLS and (self.crew._ready or self.n_flying):
                self.queue.add(job)
                return
        else:
            self.idle.add(worker)
        self.ledger.failed(job, describe_error(error))

    def _worker_died(self, worker: int, job: Job, error: BaseException) -> None:
        key = self.ledger.key(job)
        self.kills[key] += 1
        self.crew._ready.discard(worker)
        self.queue.forget(worker)
        self.crew._ask_for(worker)
        if self.kills[key] < MAX_KILLS:
            self.queue.add(job)
            return
        reason = " ".join(str(error).split())
        self.ledger.failed(job, f"its worker died {MAX_KILLS} times with it: {reason:.300}")
