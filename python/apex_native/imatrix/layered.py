"""Second moments that never lie anywhere all at once: collected for some layers, used, freed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apex_native._native import core
from apex_native.ahead import one_ahead
from apex_native.engine import Model
from apex_native.errors import ModelError
from apex_native.gpu_layers import free_gpu_bytes
from apex_native.imatrix.collection import Collection as Run
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.hessian import Hessian, packed_size, settings_digest
from apex_native.imatrix.output_groups import with_output_groups
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.interrupt import cancellable

if TYPE_CHECKING:
    from apex_native._core import BorderStates

__all__ = ["LayeredHessian", "MomentWindow"]

BYTES_PER_ELEMENT = 2 * (8 + 4)
"""Of the whole and of the part: doubles while they are summed, floats when they are used."""

FLOAT_BYTES_PER_ELEMENT = 2 * 4
"""Where the doubles lie on a GPU."""

GPU_BYTES_PER_ELEMENT = 2 * 8

KEPT_STATES = 2
"""Hidden states of the whole text: those a pass starts with, and those it leaves."""

GPU_SPARE_BYTES = 2 << 30
"""Of a GPU's memory, for what else is computed there."""

GPU_FITTING_SHARE = 1 / 3
"""Of what is free then, where a window is quantized while the next is collected: at the widths of
Qwen3.5-35B-A3B, on a GPU of 140 GB that holds the model too, ten experts at a time."""


@dataclass(frozen=True, slots=True)
class MomentWindow:
    """Weights whose inputs are collected in one pass, and what their moments take, in bytes."""

    weights: tuple[str, ...]
    nbytes: int


class LayeredHessian:
    """The second moments of a text's inputs, window by window of layers in the graph's order.

    Each window is a pass over the text that ends behind the window's last weight; the fewer fit
    into max_memory (bytes), the more passes. Where the hidden states at a border of layers fit too
    (twice: the pass before gave them, this one makes others), a pass starts there. The values are
    those of one collection of everything.

    ahead: collect a window while the one before is in use, for which both have to fit; by default
    where a GPU computes, which neither keeps busy by itself.
    """

    def __init__(
        self,
        model: Model,
        plan: CollectionPlan,
        *,
        max_memory: int,
        ahead: bool | None = None,
        progress: Callable[[ImatrixProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Ask the model's graph for its inputs. Raises ModelError, ValueError."""
        self._model = model
        self._ahead = model.on_gpu if ahead is None else ahead
        self._plan = replace(plan, moments=True, output=None, weights=())
        self._max_memory = max_memory
        self._progress = progress
        self._cancel = cancel
        self._settings = self._plan.settings(model)
        with Run(model, self._plan, self._settings) as run:
            self._inputs = run.known_inputs()
        states = self._bytes_of_states()
        self._keeps_states = 2 * KEPT_STATES * states <= max_memory
        self._bytes_per_element, self._limit = _limits(
            model,
            max_memory - (KEPT_STATES * states if self._keeps_states else 0),
            n_logits=plan.ubatch * model.n_vocab,
            ahead=self._ahead,
        )
        self.digest = settings_digest(self._settings)
        self.n_tokens = plan.n_chunks * plan.ctx

    def _bytes_of_states(self) -> int:
        """Floats of the residual stream, which the first product of a graph reads."""
        width = self._inputs[0][1] if self._inputs else 0
        return self._plan.n_chunks * self._plan.ctx * width * 4

    def most_bytes(self, windows: Sequence[MomentWindow]) -> int:
        """What moments take at a time, where these windows are collected one after the other."""
        largest = max((window.nbytes for window in windows), default=0)
        return largest * (2 if self._ahead and len(windows) > 1 else 1)

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
            n_elements = n_slices * packed_size(n_per_row)
            nbytes = n_elements * self._bytes_per_element
            if n_elements * BYTES_PER_ELEMENT > self._max_memory and nbytes > self._limit:
                raise ModelError(
                    f"the second moments of {wanted[0]}'s input need "
                    f"{n_elements * BYTES_PER_ELEMENT:,} bytes, allowed are {self._max_memory:,}; "
                    "raise `max_memory`"
                )
            if windows and windows[-1].nbytes + nbytes <= self._limit:
                last = windows.pop()
                windows.append(MomentWindow(last.weights + wanted, last.nbytes + nbytes))
            else:
                windows.append(MomentWindow(wanted, nbytes))
        return windows

    def windows(
        self, weights: Collection[str]
    ) -> Generator[tuple[tuple[str, ...], Hessian], None, None]:
        """Each window's weights with their moments, which go when the next is asked for."""
        windows = self.plan_windows(weights)
        if not self._ahead or len(windows) < 2:
            yield from self._collected(windows, self._cancel)
            return
        stop = threading.Event()
        yield from one_ahead(self._collected(windows, stop), stop.set, self._cancel)

    def _collected(
        self, windows: list[MomentWindow], cancel: threading.Event | None
    ) -> Iterator[tuple[tuple[str, ...], Hessian]]:
        start: BorderStates | None = None
        for window, after in zip(windows, [*windows[1:], None], strict=True):
            record = self._record_for(start, after)
            yield window.weights, self._collect(window, start, record, cancel)
            if record is not None:
                start = record if record.nbytes else None

    def _record_for(
        self, start: BorderStates | None, after: MomentWindow | None
    ) -> BorderStates | None:
        """Where states of this pass are kept for the next; None where it gains nothing by them."""
        layers = [] if after is None else [_layer_of(name) for name in after.weights]
        first = min((layer for layer in layers if layer is not None), default=0)
        if not self._keeps_states or first <= (0 if start is None else start.layer):
            return None
        return core.BorderStates(first)

    def _collect(
        self,
        window: MomentWindow,
        start: BorderStates | None,
        record: BorderStates | None,
        cancel: threading.Event | None,
    ) -> Hessian:
        plan = replace(self._plan, weights=window.weights, start=start, record=record)
        with Run(self._model, plan, self._settings) as run:
            run.compute(self._progress, cancel)
            inputs, input_of = run.take_moments()
        found = Hessian(inputs, input_of, self.digest, self.n_tokens, dict(self._settings))
        with cancellable(cancel):
            return with_output_groups(self._model, self._plan, found)


def _layer_of(weight: str) -> int | None:
    """The layer a weight's name puts it in."""
    found = re.match(r"blk\.(\d+)\.", weight)
    return None if found is None else int(found[1])


def _limits(model: Model, max_memory: int, *, n_logits: int, ahead: bool) -> tuple[int, int]:
    """Bytes of the host that an element takes, and how many a window may take.

    On a GPU the sums grow there, in what is free beside the model and the logits of a batch. ahead:
    beside another window, which is quantized.
    """
    if ahead:
        max_memory //= 2
    if not model.on_gpu:
        return BYTES_PER_ELEMENT, max_memory
    free = max(min(free_gpu_bytes()) - GPU_SPARE_BYTES - 4 * n_logits, 0)
    if ahead:
        free -= int(free * GPU_FITTING_SHARE)
    on_gpu = free // GPU_BYTES_PER_ELEMENT * FLOAT_BYTES_PER_ELEMENT
    return FLOAT_BYTES_PER_ELEMENT, min(max_memory, on_gpu)
