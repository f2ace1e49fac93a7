"""The groups of a collection through one loaded model, which adds up as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from apex_native._native import core
from apex_native.engine import Model
from apex_native.imatrix.checkpoint import RawEntry, RawMoment, RawMoments, State
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.hessian import InputMoment, packed_size
from apex_native.interrupt import run_interruptible

__all__ = ["OneModel", "Summing", "open_run"]


class Summing(Protocol):
    """What computes a collection's groups and holds their sums, added in the text's order."""

    @property
    def n_seq(self) -> int:
        """Chunks of a group."""
        ...

    @property
    def mtp_reason(self) -> str:
        """Why the model's MTP block is not computed; empty where it is, or there is none."""
        ...

    @property
    def tokens_in_work(self) -> int:
        """Tokens computed of groups that are not added yet, about."""
        ...

    def add_group(self, group: int, tick: Callable[[], None]) -> None:
        """Add the next group; tick is called ten times a second, what it raises stops the work."""
        ...

    def entries(self) -> list[RawEntry]:
        """A copy of the sums."""
        ...

    def moments(self) -> RawMoments | None:
        """A copy of the second moments, where they are collected."""
        ...

    def take_moments(self) -> tuple[dict[str, InputMoment], dict[str, str]]:
        """Second moments rounded to floats, and the input of every weight; gone from here then."""
        ...

    def known_inputs(self) -> list[tuple[list[str], int, int]]:
        """Inputs second moments are collected of: their readers, n_per_row, slices."""
        ...

    def restore(self, state: State) -> None:
        """Go on from there. Raises ValueError where it contradicts itself."""
        ...

    def close(self) -> None:
        """End what still computes, and free it."""
        ...


def open_run(model: Model, plan: CollectionPlan, stop: Any, *, output_rows: bool = False) -> Any:
    """A native run over a loaded model; output_rows: it keeps the output's inputs.

    Raises ValueError, ModelError.
    """
    return run_interruptible(
        lambda: core.ImatrixRun(
            model.native,
            n_ctx=plan.ctx,
            n_batch=plan.batch,
            n_ubatch=plan.ubatch,
            n_threads=model.n_threads,
            scope=plan.scope,
            moments=plan.moments,
            weights=list(plan.weights),
            output_rows=output_rows,
            start=plan.start,
            record=plan.record,
            stop=stop,
        ),
        stop.set,
    )


class OneModel:
    """A `Summing` whose sums grow where the model computes; second moments too."""

    def __init__(self, model: Model, plan: CollectionPlan) -> None:
        """Make the context. Raises ValueError, ModelError."""
        self._plan = plan
        self._stop = core.StopFlag()
        self._run: Any = open_run(model, plan, self._stop)
        self._group_tokens = 0

    @property
    def n_seq(self) -> int:
        """As `Summing`."""
        return int(self._run.n_seq)

    @property
    def mtp_reason(self) -> str:
        """As `Summing`."""
        return str(self._run.mtp_reason)

    @property
    def tokens_in_work(self) -> int:
        """As `Summing`."""
        return min(int(self._run.n_tokens_of_group), self._group_tokens)

    def known_inputs(self) -> list[tuple[list[str], int, int]]:
        """As `Summing`, in the graph's order."""
        found: list[tuple[list[str], int, int]] = self._run.known_inputs()
        return found

    def add_group(self, group: int, tick: Callable[[], None]) -> None:
        """As `Summing`."""
        tokens = self._plan.group(group, self.n_seq)
        self._group_tokens = len(tokens)
        run_interruptible(
            lambda: self._run.add_chunks(tokens, group % 2 == 1), self._stop.set, tick
        )
        self._group_tokens = 0

    def entries(self) -> list[RawEntry]:
        """As `Summing`."""
        return [RawEntry(*entry) for entry in self._run.entries()]

    def moments(self) -> RawMoments | None:
        """As `Summing`."""
        if not self._plan.moments:
            return None
        widths = {entry.weight: entry.sums.shape[1] for entry in self.entries()}
        return RawMoments(
            {
                name: RawMoment(widths[name], *(array.copy() for array in arrays))
                for name, arrays in self._run.moments().items()
            },
            self._run.moment_inputs(),
        )

    def take_moments(self) -> tuple[dict[str, InputMoment], dict[str, str]]:
        """As `Summing`. Raises ModelError where a sum exceeds what a float holds."""
        inputs = {}
        for name, (n_per_row, n_slices) in self._run.moment_shapes().items():
            total = np.empty((n_slices, packed_size(n_per_row)), np.float32)
            part = np.empty_like(total)
            counts = self._run.take_moment(name, total, part)
            inputs[name] = InputMoment(n_per_row, total, part, *counts)
        return inputs, self._run.moment_inputs()

    def restore(self, state: State) -> None:
        """As `Summing`."""
        for entry in state.entries:
            self._run.restore(entry.weight, entry.sums, entry.counts, entry.of_mtp_block)
        if state.moments is None:
            return
        for name, moment in state.moments.inputs.items():
            self._run.restore_moment(
                name, moment.n_per_row, moment.part, moment.rest, moment.counts,
                moment.part_counts,
            )  # fmt: skip
        for weight, name in state.moments.input_of.items():
            self._run.restore_input(weight, name)

    def close(self) -> None:
        """As `Summing`."""
        self._run = None
