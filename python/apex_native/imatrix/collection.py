"""The run behind `collect_imatrix`: groups of chunks, progress, checkpoints, stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_native._native import forward_log
from apex_native.atomic_write import require_place
from apex_native.closable import Closable
from apex_native.engine import Model, Placement
from apex_native.errors import ApexError, Cancelled, OutputError
from apex_native.gguf import GgufFile
from apex_native.imatrix.checkpoint import (
    State,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.from_state import least_expert_tokens
from apex_native.imatrix.hessian import InputMoment
from apex_native.imatrix.one_model import OneModel, Summing
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.imatrix.several_models import SeveralModels
from apex_native.types import GgufFacts

__all__ = ["Collection", "bytes_of_sums", "require_fresh"]

CHECKPOINT_EVERY_S = 30.0
"""Work that a kill may cost where no number of chunks is asked for."""

SNAPSHOT_SHARE = 0.02
"""Of the time, at most, goes into copies of the sums, which are what Ctrl-C leaves."""


def require_fresh(output: Path, *, resume: bool, force: bool) -> None:
    """Raise OutputError where a result or a checkpoint is in the way, or there is no folder."""
    if not output.absolute().parent.is_dir():
        raise OutputError(f"{output.absolute().parent}: no such folder; create it first")
    if output.exists() and not force:
        raise OutputError(f"{output} exists; choose another name or pass `force=True`")
    checkpoint = checkpoint_path(output)
    if checkpoint.exists() and not (resume or force):
        raise OutputError(
            f"{checkpoint} is left from an interrupted collection; pass `resume=True` to go on "
            "with it or `force=True` to start again"
        )


def bytes_to_write(facts: GgufFacts) -> int:
    """What a collection's disk must hold: a checkpoint of doubles, and the next one beside it."""
    return 2 * bytes_of_sums(facts) + _BESIDE_SUMS


def bytes_of_sums(facts: GgufFacts) -> int:
    """Of all weights' columns, in doubles: what a collection holds, on a GPU where it computes."""
    return 8 * sum(t.n_per_row * t.n_expert_slices for t in facts.tensors if len(t.shape) > 1)


_BESIDE_SUMS = 1 << 20


class Collection(Closable):
    """One collection; use in a ``with`` statement, which frees the model's context."""

    def __init__(
        self,
        model: Model,
        plan: CollectionPlan,
        settings: Mapping[str, Any],
        beside: Sequence[Placement] = (),
    ) -> None:
        """Make the context. Raises ValueError, ModelError.

        beside: where copies of the model are loaded that compute too; not for second moments, which
        are added up where one model computes.
        """
        self._plan = plan
        self._sums: Summing = (
            SeveralModels(model, plan, beside)
            if beside and not plan.moments
            else OneModel(model, plan)
        )
        self._settings = settings
        self._checkpoint: Path | None = None
        if plan.output is not None:
            self._checkpoint = checkpoint_path(plan.output)
            with GgufFile(model.path) as file:
                self._settings = {"model": file.fingerprint(), **settings}
                require_place(plan.output, bytes_to_write(file.facts))
        self._snapshot: State | None = None
        self._snapshot_cost_s = 0.0
        self._snapshot_at = self._saved_at = self._started = time.perf_counter()
        self._saved_chunks = self._resumed = self._done = 0

    def close(self) -> None:
        """Free the context and hand on what llama.cpp said."""
        self._sums.close()
        forward_log()

    @property
    def mtp_reason(self) -> str:
        """Why the model's MTP block is not computed; empty where it is, or there is none."""
        return self._sums.mtp_reason

    def known_inputs(self) -> list[tuple[list[str], int, int]]:
        """Inputs in the graph's order: the weights that read each, n_per_row, slices."""
        return self._sums.known_inputs()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one. Raises OutputError, ImatrixError."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        state = read_checkpoint(self._checkpoint, self._settings)
        self._sums.restore(state)
        self._done = self._resumed = self._saved_chunks = state.chunks_done
        self._snapshot = state

    def run(
        self,
        progress: Callable[[ImatrixProgress], None] | None,
        cancel: threading.Event | None,
    ) -> State:
        """Compute what is left; a checkpoint of whole chunks stays behind a stop."""
        self.compute(progress, cancel)
        return self._state()

    def compute(
        self,
        progress: Callable[[ImatrixProgress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """The same without the sums, which stay on the native side."""
        plan = self._plan

        def tick() -> None:
            if progress is not None:
                progress(self._progress())
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped by the caller")

        try:
            while self._done < plan.n_chunks and not self._is_covered():
                tick()
                self._sums.add_group(self._done // self._sums.n_seq, tick)
                self._done = min(self._done + self._sums.n_seq, plan.n_chunks)
                self._keep()
            if progress is not None:
                progress(self._progress())
        except (KeyboardInterrupt, Cancelled) as stop:
            self._leave_checkpoint(stop)
            raise

    def take_moments(self) -> tuple[dict[str, InputMoment], dict[str, str]]:
        """Second moments rounded to floats, and the input of every weight; gone from here then.

        Raises ModelError where a sum exceeds what a float holds.
        """
        return self._sums.take_moments()

    def _is_covered(self) -> bool:
        wanted = self._plan.min_expert_tokens
        if wanted < 1 or self._done == 0:
            return False
        least = least_expert_tokens(self._sums.entries())
        return least is None or least >= wanted

    def _progress(self) -> ImatrixProgress:
        return ImatrixProgress(
            chunks_done=self._done,
            n_chunks=self._plan.n_chunks,
            chunks_resumed=self._resumed,
            chunk_size=self._plan.ctx,
            elapsed_s=time.perf_counter() - self._started,
            tokens_in_work=self._sums.tokens_in_work,
        )

    def _state(self) -> State:
        return State(self._done, self._sums.entries(), self._sums.moments())

    def _keep(self) -> None:
        """Copy the sums, and write them down, as often as is cheap or was asked for."""
        if self._checkpoint is None:
            return
        now = time.perf_counter()
        every = self._plan.checkpoint_every
        if every is None:
            due = now - self._saved_at >= CHECKPOINT_EVERY_S
        else:
            due = self._done - self._saved_chunks >= every
        if due or (now - self._snapshot_at) * SNAPSHOT_SHARE >= self._snapshot_cost_s:
            self._snapshot = self._state()
            self._snapshot_at = time.perf_counter()
            self._snapshot_cost_s = self._snapshot_at - now
        if due:
            self._save()

    def _save(self) -> None:
        assert self._checkpoint is not None
        assert self._snapshot is not None
        write_checkpoint(self._checkpoint, self._settings, self._snapshot)
        self._saved_chunks = self._snapshot.chunks_done
        self._saved_at = time.perf_counter()

    def _leave_checkpoint(self, stop: BaseException) -> None:
        if self._snapshot is None:
            return
        try:
            if self._snapshot.chunks_done > self._saved_chunks:
                self._save()
        except ApexError as error:
            stop.add_note(f"the sums so far are lost: {error}")
            return
        stop.add_note(
            f"{self._snapshot.chunks_done} of {self._plan.n_chunks} chunks are done; "
            "go on with `resume=True`"
        )
