"""Which job a free worker gets: one whose model it has at hand, then one nobody has begun with.

Placing workers on machines and GPUs, and starting them again, is Ray's; this is only the order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from apex_native.sweeps.jobs import Job

__all__ = ["JobQueue"]


class JobQueue:
    """Jobs by subject, in the order they came."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        """Take all of them."""
        self._pending: dict[str, deque[Job]] = {}
        self._at_hand: dict[int, str] = {}
        self._untouched: deque[str] = deque()
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._pending.values())

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, job: Job) -> None:
        """At the end of its subject."""
        if job.subject not in self._pending:
            self._pending[job.subject] = deque()
            self._untouched.append(job.subject)
        self._pending[job.subject].append(job)

    def next(self, worker: int) -> Job | None:
        """The next job for a worker, by its number; None where there is none left."""
        if not self._pending:
            return None
        subject = self._at_hand.get(worker)
        if subject not in self._pending:
            subject = self._take_untouched() or max(
                self._pending, key=lambda name: len(self._pending[name])
            )
        assert subject is not None
        self._at_hand[worker] = subject
        jobs = self._pending[subject]
        job = jobs.popleft()
        if not jobs:
            del self._pending[subject]
        return job

    def forget(self, worker: int) -> None:
        """A worker has lost what it had at hand."""
        self._at_hand.pop(worker, None)

    def _take_untouched(self) -> str | None:
        while self._untouched:
            subject = self._untouched.popleft()
            if subject in self._pending and subject not in self._at_hand.values():
                return subject
        return None
