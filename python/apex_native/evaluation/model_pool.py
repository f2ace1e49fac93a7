"""The models that are loaded at the moment, each of them once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace

from apex_native.closable import Closable
from apex_native.engine import Model, Placement
from apex_native.evaluation.model_source import ModelSource
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.interrupt import POLL_S, cancellable, check_cancelled
from apex_native.machine import free_memory
from apex_native.read_ahead import ReadAhead

__all__ = ["ModelPool"]

SPARE_BYTES = 2 << 30
"""Left free beside files that are read ahead: what an evaluation takes beside its models."""


class ModelPool(Closable):
    """Loads models when they are asked for and keeps them until they are released.

    Two models under test that differ in their KV caches only are one loaded model. Use it in a
    ``with`` statement: what is still loaded at its end is freed.
    """

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._open: dict[
            tuple[ModelSource, Placement], tuple[AbstractContextManager[Model], Model]
        ] = {}
        self._reading: ReadAhead | None = None

    def close(self) -> None:
        """Free what is loaded."""
        self._stop_reading()
        while self._open:
            _, (manager, _) = self._open.popitem()
            manager.__exit__(None, None, None)

    def load(self, tested: ModelUnderTest, *, gpu_reserve: int = 0) -> Model:
        """The loaded model; errors are those of `load_model` and of the source.

        gpu_reserve: bytes of its GPUs that models loaded later will take.
        """
        key = (tested.source, tested.placement)
        if key not in self._open:
            manager = tested.source.open(replace(tested.placement, gpu_reserve=gpu_reserve))
            self._open[key] = (manager, manager.__enter__())
        return self._open[key][1]

    def load_together(
        self, models: Sequence[ModelUnderTest], load: Callable[[ModelUnderTest], Model]
    ) -> None:
        """Call load, which fills this pool, for models on different GPUs at the same time.

        One thread copies to a GPU at a fraction of what memory gives. Raises what the first load
        that fails raises, when the others have ended.
        """
        by_devices: dict[tuple[str, ...], list[ModelUnderTest]] = {}
        for model in models:
            by_devices.setdefault(model.placement.devices, []).append(model)
        if len(by_devices) < 2:
            return  # they come one after the other, when they are asked for
        stop = threading.Event()

        def load_all(those: Sequence[ModelUnderTest]) -> None:
            with cancellable(stop):
                for model in those:
                    load(model)

        with ThreadPoolExecutor(len(by_devices)) as threads:
            calls = [threads.submit(load_all, those) for those in by_devices.values()]
            try:
                while wait(calls, timeout=POLL_S).not_done:
                    check_cancelled()
            except BaseException:
                stop.set()
                raise
        for call in calls:
            call.result()

    def read_ahead(
        self, models: Iterable[ModelUnderTest], *, beside: Iterable[ModelUnderTest] = ()
    ) -> None:
        """Bring files of models that are loaded later into memory, while others load or compute.

        In order, as many as the free memory holds beside loaded models and those of beside, which
        are about to be; what was being read before is given up.
        """
        self._stop_reading()
        paths = [model.source.path for model in models if model.source.path is not None]
        free = free_memory()
        if free is None or not paths:
            return
        keys = {*self._open, *((model.source, model.placement) for model in beside)}
        held = sum(source.nbytes for source in {s for s, place in keys if not place.all_on_gpu})
        self._reading = ReadAhead(paths, free - held - SPARE_BYTES)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def release(self, tested: ModelUnderTest) -> None:
        """Free it, if it is loaded."""
        found = self._open.pop((tested.source, tested.placement), None)
        if found is not None:
            found[0].__exit__(None, None, None)
