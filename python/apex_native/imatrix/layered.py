"""Second moments that never lie anywhere all at once: collected for some layers, used, freed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from apex_native.engine import Model
from apex_native.errors import ModelError
from apex_native.imatrix.collection import Collection as Run
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.hessian import Hessian, packed_size, settings_digest
from apex_native.imatrix.output_groups import with_output_groups
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.interrupt import cancellable

__all__ = ["LayeredHessian", "MomentWindow"]

BYTES_PER_ELEMENT = 2 * (8 + 4)
"""Of the whole and of the part: doubles while they are summed, floats when they are used."""


@dataclass(frozen=True, slots=True)
class MomentWindow:
    """Weights whose inputs are collected in one pass, and what their moments take, in bytes."""

    weights: tuple[str, ...]
    nbytes: int


class LayeredHessian:
    """The second moments of a text's inputs, window by window of layers in the graph's order.

    Each window is a pass over the text that ends behind the window's last weight; the fewer fit
    into max_memory (bytes), the more passes. The values are those of one collection of everything.
    """

    def __init__(
        self,
        model: Model,
        plan: CollectionPlan,
        *,
        max_memory: int,
        progress: Callable[[ImatrixProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Ask the model's graph for its inputs. Raises ModelError, ValueError."""
        self._model = model
        self._plan = replace(plan, moments=True, output=None, weights=())
        self._max_memory = max_memory
        self._progress = progress
        self._cancel = cancel
        self._settings = self._plan.settings(model)
        with Run(model, self._plan, self._settings) as run:
            self._inputs = run.known_inputs()
        self.digest = settings_digest(self._settings)
        self.n_tokens = plan.n_chunks * plan.ctx

    def all_weights(self) -> frozenset[str]:
        """Every weight that a product of the graph reads."""
        return frozenset(name for readers, _, _ in self._inputs for name in readers)

    def plan_windows(self, weights: Collection[str]) -> list[MomentWindow]:
        """How these weights are spread over passes; those no product reads are left out.

        Raises ModelError where one input alone needs more than max_memory.
        """
        windows: list[MomentWindow] = []
        for readers, n_per_row, n_slices in self._inputs:
            wanted = tuple(name for name in readers if name in weights)
            if not wanted:
                continue
            nbytes = n_slices * packed_size(n_per_row) * BYTES_PER_ELEMENT
            if nbytes > self._max_memory:
                raise ModelError(
                    f"the second moments of {wanted[0]}'s input need {nbytes:,} bytes, allowed are "
                    f"{self._max_memory:,}; raise `max_memory`"
                )
            if windows and windows[-1].nbytes + nbytes <= self._max_memory:
                last = windows.pop()
                windows.append(MomentWindow(last.weights + wanted, last.nbytes + nbytes))
            else:
                windows.append(MomentWindow(wanted, nbytes))
        return windows

    def windows(self, weights: Collection[str]) -> Iterator[tuple[tuple[str, ...], Hessian]]:
        """Each window's weights with their moments, which go when the next is asked for."""
        for window in self.plan_windows(weights):
            yield window.weights, self._collect(window)

    def _collect(self, window: MomentWindow) -> Hessian:
        plan = replace(self._plan, weights=window.weights)
        with Run(self._model, plan, self._settings) as run:
            state = run.run(self._progress, self._cancel)
        assert state.moments is not None
        found = Hessian.from_raw(state.moments, self._settings, self.n_tokens)
        with cancellable(self._cancel):
            return with_output_groups(self._model, self._plan, found)
