"""The process of a worker on a Ray cluster: a `Worker`, and what tells whether it fits the others.

Ray places it, and starts it again where it ends; what it had loaded is then loaded anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from apex_native.engine import Placement
from apex_native.sweeps.jobs import Job
from apex_native.sweeps.local_files import LocalFiles, read_piece
from apex_native.sweeps.ray_setup import import_ray
from apex_native.sweeps.worker import Outcome, Worker, WorkerFacts, WorkerSettings, worker_facts

__all__ = ["FileServer", "RayWorker"]


class FileServer:
    """Hands out files of the machine the sweep was started on."""

    def read(self, path: str, offset: int, n_bytes: int) -> bytes:
        """Part of a file."""
        return read_piece(path, offset, n_bytes)


class RayWorker:
    """An actor."""

    def __init__(self, placement: Placement) -> None:
        """Nothing is loaded yet."""
        self._placement = placement
        self._server: Any = None
        self._settings: Any = None
        self._worker: Worker | None = None

    def facts(self) -> WorkerFacts:
        """What this process computes with."""
        return worker_facts(self._placement)

    def process(self) -> tuple[str, int]:
        """Id of the node, and of the process."""
        return str(import_ray().get_runtime_context().get_node_id()), os.getpid()

    def run(self, job: Job, settings: Sequence[Any]) -> Outcome:
        """Carry out a job; settings: a reference to a `WorkerSettings`, a `FileServer`'s handle.

        Both in a list, as Ray would resolve a reference that is an argument itself, for each job.
        """
        if self._worker is None or settings[0] != self._settings:
            if self._worker is not None:
                self._worker.close()
            self._settings, self._server = settings
            known: WorkerSettings = import_ray().get(settings[0])
            self._worker = Worker(known, LocalFiles(known.cache, self._fetch))
        return self._worker.run(job)

    def _fetch(self, path: str, offset: int, n_bytes: int) -> bytes:
        piece: bytes = import_ray().get(self._server.read.remote(path, offset, n_bytes))
        return piece
