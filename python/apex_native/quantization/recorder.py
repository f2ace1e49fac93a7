"""Makes finished tensors durable while the next ones are worked on."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from apex_native.quantization.journal import FinishedTensor, Journal
from apex_native.quantization.output import OutputShard

__all__ = ["Recorder"]

SYNC_EVERY_S = 2.0
"""Work that a crash may cost; each sync only flushes what is new."""


class Recorder:
    """Syncs finished tensors to disk and notes them in the journal, beside the work.

    In a thread of its own, because a sync may take seconds and cancellation may not.
    """

    def __init__(
        self,
        journal: Journal,
        shards: Sequence[OutputShard],
        finished: MutableMapping[str, FinishedTensor],
    ) -> None:
        """finished: where tensors are noted at once, before they are synced."""
        self._journal = journal
        self._shards = shards
        self._finished = finished
        self._waiting: list[FinishedTensor] = []
        self._last_sync = time.monotonic()
        self._sync: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apex-journal")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._sync is not None:
                self._sync.result()
            # After a normal end the files are published at once; after a stop this is what
            # makes the rest of the work resumable.
            if kind is not None and self._waiting:
                self._write(self._take())
        finally:
            self._thread.shutdown()

    def add(self, done: list[FinishedTensor]) -> None:
        """Take note of finished tensors; sync if the last one is long enough ago."""
        for tensor in done:
            self._finished[tensor.name] = tensor
        self._waiting += done
        idle = self._sync is None or self._sync.done()
        if self._waiting and idle and time.monotonic() - self._last_sync >= SYNC_EVERY_S:
            if self._sync is not None:
                self._sync.result()
            self._last_sync = time.monotonic()
            self._sync = self._thread.submit(self._write, self._take())

    def _take(self) -> list[FinishedTensor]:
        taken, self._waiting = self._waiting, []
        return taken

    def _write(self, tensors: list[FinishedTensor]) -> None:
        for shard in self._shards:
            os.fsync(shard.fd)
        self._journal.record(tensors)
