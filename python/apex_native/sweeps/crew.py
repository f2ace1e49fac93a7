"""Who carries jobs out: this process, or the workers of a Ray cluster. One interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from apex_native.errors import ApexError, Cancelled
from apex_native.interrupt import check_cancelled
from apex_native.sweeps.jobs import Job
from apex_native.sweeps.ledger import MAX_KILLS, Ledger
from apex_native.sweeps.local_files import LocalFiles
from apex_native.sweeps.worker import Worker, WorkerFacts, WorkerSettings, worker_facts

__all__ = ["Crew", "EmbeddedCrew", "describe_error"]


class Crew(Protocol):
    """Workers that have been started; what they have in common, and what they do."""

    @property
    def facts(self) -> WorkerFacts:
        """What all of them compute with."""
        ...

    def run(self, jobs: Sequence[Job], settings: WorkerSettings, ledger: Ledger) -> None:
        """Carry jobs out; results and failures are in the ledger.

        Raises what stops a sweep: KeyboardInterrupt, Cancelled, OutputError of the store.
        """
        ...


class EmbeddedCrew:
    """This process alone. What ends it ends the sweep, and is remembered for the next run."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Nothing is loaded yet."""
        self._facts = worker_facts(settings.placement)

    @property
    def facts(self) -> WorkerFacts:
        """Those of this process."""
        return self._facts

    def run(self, jobs: Sequence[Job], settings: WorkerSettings, ledger: Ledger) -> None:
        """One after the other."""
        worker = Worker(settings, LocalFiles(settings.cache))
        try:
            for job in jobs:
                check_cancelled()
                ledger.tell()
                self._one(worker, job, ledger)
        finally:
            worker.close()

    def _one(self, worker: Worker, job: Job, ledger: Ledger) -> None:
        store, key = ledger.store, ledger.key(job)
        n = store.attempts(key)
        if n >= MAX_KILLS:
            store.end(key)  # the next run tries it again
            ledger.failed(job, f"the process ended {n} times during this job")
            return
        store.begin(key, job.label)
        try:
            outcome = worker.run(job)
        except (KeyboardInterrupt, Cancelled):
            store.end(key)
            raise
        except (ApexError, OSError, MemoryError, ValueError) as error:
            store.end(key)
            ledger.failed(job, describe_error(error))
        else:
            ledger.done(job, outcome)


def describe_error(error: BaseException) -> str:
    """The class where it is not ours, and the message."""
    text = str(error) or type(error).__name__
    return text if isinstance(error, ApexError) else f"{type(error).__name__}: {text}"
