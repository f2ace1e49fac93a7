"""Groups handed out to several workers, what they made of them taken back in order."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["GroupTurns"]


class GroupTurns:
    """Which group comes next, and records that wait for their turn; for any number of threads.

    Groups first to n_groups - 1 are handed out in order. Workers run at most `ahead` groups ahead
    of what was taken back, so that few records are in memory; spent ones are used again.
    """

    def __init__(self, first: int, n_groups: int, ahead: int) -> None:
        """No group is handed out yet."""
        self._changed = threading.Condition()
        self._next = self._wanted = first
        self._n_groups = n_groups
        self._ahead = ahead
        self._ready: dict[int, Any] = {}
        self._spent: list[Any] = []
        self._error: BaseException | None = None
        self._ended = False

    def take(self) -> int | None:
        """The next group, as soon as it may begin; None where there is none, or it is over."""
        with self._changed:
            self._changed.wait_for(self._may_answer)
            if self._ended or self._next >= self._n_groups:
                return None
            self._next += 1
            return self._next - 1

    def _may_answer(self) -> bool:
        over = self._ended or self._next >= self._n_groups
        return over or self._next < self._wanted + self._ahead

    @property
    def any_left(self) -> bool:
        """Groups nobody has begun."""
        with self._changed:
            return not self._ended and self._next < self._n_groups

    def put(self, group: int, record: Any) -> None:
        """What came of a group: a record, or the exception that `get` is to raise for it."""
        with self._changed:
            self._ready[group] = record
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Something went wrong that concerns all groups: `get` raises it."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def get(self, group: int, timeout: float) -> Any:
        """The group's record, None if it has not come within so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: group in self._ready or self._error, timeout)
            if self._error is not None:
                raise self._error
            record = self._ready.pop(group, None)
            if isinstance(record, BaseException):
                raise record
            return record

    def is_ready(self, group: int) -> bool:
        """Its record waits."""
        with self._changed:
            return group in self._ready

    def done(self, group: int, record: Any) -> None:
        """The group was taken back; its record can be written to again."""
        with self._changed:
            self._wanted = group + 1
            self._spent.append(record)
            self._changed.notify_all()

    def spent(self) -> Any:
        """A record to write to again, None if there is none."""
        with self._changed:
            return self._spent.pop() if self._spent else None

    def end(self) -> None:
        """Hand out no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
