"""The groups of a collection through copies of one model, each on a GPU of its own.

Every copy writes down the squares of its groups (`core.GroupRecord`); they are added in the text's
order, as one model would add them as it goes, so the sums are the same bits for any number of
copies. Copies are loaded one after the other, and the first computes meanwhile: reading a file
twice at once is not faster, and a short text is done before the second copy is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from apex_native._native import core
from apex_native.engine import Model, Placement
from apex_native.errors import Cancelled
from apex_native.imatrix.checkpoint import RawEntry, State
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.group_turns import GroupTurns
from apex_native.imatrix.hessian import InputMoment
from apex_native.imatrix.one_model import open_run
from apex_native.interrupt import POLL_S, cancellable, check_cancelled

__all__ = ["SeveralModels"]

MERGING_THREADS = 8
"""Adding is limited by memory: more threads do not make it faster."""

WAITING = 2
"""Groups computed ahead beside one for each copy."""


@dataclass(slots=True)
class _Worker:
    """A copy's run, the group it is at, how many it has computed."""

    run: Any
    group: int | None = None
    n_groups: int = 0


class SeveralModels:
    """A `Summing` over a loaded model and copies that are loaded beside it."""

    def __init__(self, model: Model, plan: CollectionPlan, beside: Sequence[Placement]) -> None:
        """Make the first context. Raises ValueError, ModelError."""
        require_same_kind(model, beside)
        self._model = model
        self._plan = plan
        self._beside = beside
        self._stop = core.StopFlag()
        self._ended = threading.Event()
        self._sums: Any = core.RecordedSums(n_threads=min(model.n_threads, MERGING_THREADS))
        self._workers = [_Worker(open_run(model, plan, self._stop))]
        self.n_seq = int(self._workers[0].run.n_seq)
        self.mtp_reason = str(self._workers[0].run.mtp_reason)
        self._working: list[threading.Event] = []
        self._turns: GroupTurns | None = None
        self._wanted = 0

    @property
    def groups_each(self) -> list[int]:
        """How many groups each copy has computed, the first model's first."""
        return [worker.n_groups for worker in self._workers]

    @property
    def tokens_in_work(self) -> int:
        """As `Summing`."""
        if self._turns is None:
            return 0
        tokens = 0
        for worker in self._workers:
            group, run = worker.group, worker.run
            if group is not None and run is not None:
                tokens += min(int(run.n_tokens_of_group), len(self._plan.group(group, self.n_seq)))
        ahead = self._wanted + len(self._workers) + WAITING
        ready = [group for group in range(self._wanted, ahead) if self._turns.is_ready(group)]
        return tokens + sum(len(self._plan.group(group, self.n_seq)) for group in ready)

    def add_group(self, group: int, tick: Callable[[], None]) -> None:
        """As `Summing`."""
        self._wanted = group
        turns = self._turns or self._start(group)
        while (record := turns.get(group, POLL_S)) is None:
            check_cancelled()
            tick()
        self._sums.add(record)
        turns.done(group, record)

    def _start(self, first: int) -> GroupTurns:
        """Groups from this one on, computed by the model that is there while the others load."""
        n_groups = -(-self._plan.n_chunks // self.n_seq)
        ahead = 1 + len(self._beside) + WAITING
        self._turns = turns = GroupTurns(first, n_groups, ahead)
        self._begin(self._work, self._workers[0], turns)
        self._begin(self._load, turns)
        return turns

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        ended = threading.Event()  # waited for in the place of the thread: see `Call`

        def run() -> None:
            try:
                work(*arguments)
            finally:
                ended.set()

        self._working.append(ended)
        threading.Thread(target=run, name="apex-native imatrix").start()

    def _load(self, turns: GroupTurns) -> None:
        """Load the copies, each of which begins when it is there."""
        try:
            with cancellable(self._ended):
                for placement in self._beside:
                    if not turns.any_left:
                        break
                    model = placement.load(
                        self._model.path,
                        load_mtp=self._model.load_mtp,
                        expert_used_count=self._model.expert_used_count,
                    )
                    worker = _Worker(open_run(model, self._plan, self._stop))
                    self._workers.append(worker)
                    self._begin(self._work, worker, turns)
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            turns.fail(error)

    def _work(self, worker: _Worker, turns: GroupTurns) -> None:
        while (group := turns.take()) is not None:
            record = turns.spent() or core.GroupRecord()
            worker.group = group
            try:
                worker.run.record_chunks(self._plan.group(group, self.n_seq), record)
            except BaseException as error:  # noqa: BLE001  (raised again where it is its turn)
                turns.put(group, error)
                break
            worker.group = None
            worker.n_groups += 1
            turns.put(group, record)
        worker.run = None  # its context, and a copy's model with it

    def entries(self) -> list[RawEntry]:
        """As `Summing`."""
        return [RawEntry(*entry) for entry in self._sums.entries()]

    def moments(self) -> None:
        """As `Summing`: `Collection` has one model collect them."""

    def take_moments(self) -> tuple[dict[str, InputMoment], dict[str, str]]:
        """As `Summing`: none."""
        return {}, {}

    def known_inputs(self) -> list[tuple[list[str], int, int]]:
        """As `Summing`: none, as no second moments are collected."""
        return []

    def restore(self, state: State) -> None:
        """As `Summing`."""
        for entry in state.entries:
            self._sums.restore(entry.weight, entry.sums, entry.counts, entry.of_mtp_block)

    def close(self) -> None:
        """As `Summing`: copies that are still loading are given up."""
        self._ended.set()
        self._stop.set()
        if self._turns is not None:
            self._turns.end()
        while self._working:  # the first copy, the one that loads others, then those it began
            self._working[0].wait()
            del self._working[0]
        self._workers.clear()


def require_same_kind(model: Model, beside: Sequence[Placement]) -> None:
    """Raise ValueError where copies compute on another kind of device: with other last digits."""
    for placement in beside:
        if placement.on_gpu != model.on_gpu:
            raise ValueError(
                f"one copy of the model is on {_kind(model.on_gpu)}, another on "
                f"{_kind(placement.on_gpu)}, whose sums differ in their last digits; place all of "
                "them on GPUs, or none"
            )


def _kind(on_gpu: bool) -> str:
    return "a GPU" if on_gpu else "the CPU"
