"""The run behind `collect_imatrix`: groups of chunks, progress, checkpoints, stops."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from apex_native._native import core
from apex_native.atomic_write import require_place
from apex_native.engine import Model, Tokens
from apex_native.errors import ApexError, Cancelled, OutputError
from apex_native.gguf import GgufFile
from apex_native.imatrix.checkpoint import (
    RawEntry,
    RawMoment,
    RawMoments,
    State,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)
from apex_native.imatrix.from_state import least_expert_tokens
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.interrupt import run_interruptible
from apex_native.types import GgufFacts

__all__ = ["Collection", "CollectionPlan", "Scope", "require_fresh"]

Scope = Literal["everything", "upstream"]

CHECKPOINT_EVERY_S = 30.0
"""Work that a kill may cost where no number of chunks is asked for."""

SNAPSHOT_SHARE = 0.02
"""Of the time, at most, goes into copies of the sums, which are what Ctrl-C leaves."""


@dataclass(frozen=True, slots=True, eq=False)
class CollectionPlan:
    """What is to be computed: whole chunks of ctx tokens, and how."""

    tokens: Tokens
    ctx: int
    batch: int
    ubatch: int
    scope: Scope
    min_expert_tokens: int
    output: Path | None
    checkpoint_every: int | None
    moments: bool = False
    """Second moments too."""
    weights: tuple[str, ...] = ()
    """Of these weights only; empty: of all."""

    @property
    def n_chunks(self) -> int:
        """Chunks at most computed."""
        return len(self.tokens) // self.ctx

    def settings(self, model: Model) -> dict[str, Any]:
        """What decides the sums, as the file records it; the same on every machine."""
        info = core.build_info()
        return {
            "vocabulary": model.fingerprint,
            "parameters": model.n_parameters,
            "tokens_sha256": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
            "n_tokens": len(self.tokens),
            "ctx": self.ctx,
            "batch": self.batch,
            "ubatch": self.ubatch,
            "scope": self.scope,
            "expert_used_count": model.expert_used_count,
            "min_expert_tokens": self.min_expert_tokens,
            "version": info["version"],
            "llama_cpp_commit": info["llama_cpp_commit"],
        }


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
    n_sums = sum(t.n_per_row * t.n_expert_slices for t in facts.tensors if len(t.shape) > 1)
    return 2 * 8 * n_sums + _BESIDE_SUMS


_BESIDE_SUMS = 1 << 20


class Collection:
    """One collection; use in a ``with`` statement, which frees the model's context."""

    def __init__(self, model: Model, plan: CollectionPlan, settings: Mapping[str, Any]) -> None:
        """Make the context. Raises ValueError, ModelError."""
        self._plan = plan
        self._stop = core.StopFlag()
        self._native: Any = run_interruptible(
            lambda: core.ImatrixRun(
                model.native,
                n_ctx=plan.ctx,
                n_batch=plan.batch,
                n_ubatch=plan.ubatch,
                n_threads=model.n_threads,
                scope=plan.scope,
                moments=plan.moments,
                weights=list(plan.weights),
                stop=self._stop,
            ),
            self._stop.set,
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
        self._computing = False

    def __enter__(self) -> Self:
        """Return the collection itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the context."""
        self._native = None

    @property
    def mtp_reason(self) -> str:
        """Why the model's MTP block is not computed; empty where it is, or there is none."""
        return str(self._native.mtp_reason)

    def known_inputs(self) -> list[tuple[list[str], int, int]]:
        """Inputs in the graph's order: the weights that read each, n_per_row, slices."""
        found: list[tuple[list[str], int, int]] = self._native.known_inputs()
        return found

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one. Raises OutputError, ImatrixError."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        state = read_checkpoint(self._checkpoint, self._settings)
        for entry in state.entries:
            self._native.restore(entry.weight, entry.sums, entry.counts, entry.of_mtp_block)
        if state.moments is not None:
            for name, moment in state.moments.inputs.items():
                self._native.restore_moment(
                    name, moment.n_per_row, moment.total, moment.part, moment.counts,
                    moment.part_counts,
                )  # fmt: skip
            for weight, name in state.moments.input_of.items():
                self._native.restore_input(weight, name)
        self._done = self._resumed = self._saved_chunks = state.chunks_done
        self._snapshot = state

    def run(
        self,
        progress: Callable[[ImatrixProgress], None] | None,
        cancel: threading.Event | None,
    ) -> State:
        """Compute what is left; a checkpoint of whole chunks stays behind a stop."""
        plan = self._plan

        def tick() -> None:
            if progress is not None:
                progress(self._progress())
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped by the caller")

        try:
            while self._done < plan.n_chunks and not self._is_covered():
                tick()
                n_chunks = min(self._native.n_seq, plan.n_chunks - self._done)
                tokens = plan.tokens[self._done * plan.ctx : (self._done + n_chunks) * plan.ctx]
                in_part = self._done // self._native.n_seq % 2 == 1
                self._computing = True
                run_interruptible(
                    lambda: self._native.add_chunks(tokens, in_part),  # noqa: B023  (called now)
                    self._stop.set,
                    tick,
                )
                self._computing = False
                self._done += n_chunks
                self._keep()
            if progress is not None:
                progress(self._progress())
        except (KeyboardInterrupt, Cancelled) as stop:
            self._leave_checkpoint(stop)
            raise
        return self._state()

    def _is_covered(self) -> bool:
        wanted = self._plan.min_expert_tokens
        if wanted < 1 or self._done == 0:
            return False
        least = least_expert_tokens(self._entries())
        return least is None or least >= wanted

    def _progress(self) -> ImatrixProgress:
        return ImatrixProgress(
            chunks_done=self._done,
            n_chunks=self._plan.n_chunks,
            chunks_resumed=self._resumed,
            chunk_size=self._plan.ctx,
            elapsed_s=time.perf_counter() - self._started,
            tokens_in_work=self._tokens_in_work(),
        )

    def _tokens_in_work(self) -> int:
        if not self._computing:
            return 0
        n_chunks = min(int(self._native.n_seq), self._plan.n_chunks - self._done)
        return min(int(self._native.n_tokens_of_group), n_chunks * self._plan.ctx)

    def _state(self) -> State:
        return State(self._done, self._entries(), self._moments() if self._plan.moments else None)

    def _moments(self) -> RawMoments:
        """A copy: what the native side holds goes on growing."""
        widths = {entry.weight: entry.sums.shape[1] for entry in self._entries()}
        return RawMoments(
            {
                name: RawMoment(widths[name], *(array.copy() for array in arrays))
                for name, arrays in self._native.moments().items()
            },
            self._native.moment_inputs(),
        )

    def _entries(self) -> list[RawEntry]:
        return [RawEntry(*entry) for entry in self._native.entries()]

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
