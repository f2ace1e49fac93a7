"""The work between open files and finished tensors: each is read once for all outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apex_native._native import core
from apex_native.errors import ApexError, Cancelled, QuantizeError
from apex_native.plan import PlannedTensor
from apex_native.quantization.device import DeviceUse
from apex_native.quantization.feedback import (
    FeedbackPlaces,
    HessianSource,
    feedback_for,
    feedback_groups,
    has_feedback,
)
from apex_native.quantization.journal import FinishedTensor
from apex_native.quantization.output_run import OutputRun
from apex_native.quantization.progress import Progress
from apex_native.quantization.recorder import Recorder
from apex_native.weights import WeightSource, interrupt

if TYPE_CHECKING:
    from apex_native._core import FeedbackDevices, QuantizeJob, QuantizeTask, RowsConverter
    from apex_native.imatrix import Hessian

__all__ = ["Conversion"]

POLL_MS = 100
"""How often cancellation, Ctrl-C and progress are looked at."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor of one output goes."""

    run: int
    tensor: PlannedTensor
    fd: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Converters:
    """Makes what quantizes tensors with error feedback, under these moments, on these GPUs."""

    source: WeightSource
    moments: Hessian | None
    devices: FeedbackDevices | None
    n_threads: int
    first: dict[Any, RowsConverter] = field(default_factory=dict)
    """Of every input, type and number of matrices: those beside it choose with it."""

    def make(self, tensor: PlannedTensor, values: Any) -> RowsConverter | None:
        """Values: the tensor's importances. None where it is quantized as ggml does."""
        if not has_feedback(tensor):
            return None
        moment = None if self.moments is None else self.moments.moment_of(tensor.name)
        key = (id(moment), tensor.type, tensor.shape[:-2])
        made = feedback_for(
            *(self.source, tensor.name, tensor.type, values, self.moments),
            devices=self.devices,
            n_threads=self.n_threads,
            beside=self.first.get(key),
        )
        # Groups of rows have moments of their own: nothing reads these beside them.
        if made is not None and moment is not None and moment.groups is None:
            self.first.setdefault(key, made)
        return made


class Conversion:
    """Quantizes what is left of several outputs of one source.

    A tensor is read and widened once; outputs that want it in one type with one matrix share its
    quantization too. Bytes and errors are those of each output by itself.
    """

    def __init__(
        self,
        source: WeightSource,
        runs: Sequence[OutputRun],
        hessian: HessianSource | None,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """Nothing is converted yet."""
        self._source = source
        self._runs = runs
        self._hessian = hessian
        self._progress = progress
        self._cancel = cancel
        self._started = time.perf_counter()
        self._places: dict[str, list[_Place]] = {}
        for number, run in enumerate(runs):
            for name, (tensor, fd, offset) in run.places().items():
                self._places.setdefault(name, []).append(_Place(number, tensor, fd, offset))
        self._resumed = (
            sum(t.nbytes for t in source.facts.tensors if t.name not in self._places)
            if any(run.n_resumed for run in runs)
            else 0
        )

    def run(self, n_threads: int, max_memory: int, device: DeviceUse) -> None:
        """Do it all; errors and Cancelled leave what is finished in the runs."""
        for run in self._runs:
            run.require_proportion(run.finished)
        with ExitStack() as stack:
            recorders = []
            for run in self._runs:
                assert run.journal is not None
                recorder = Recorder(run.journal, run.shards, run.finished)
                recorders.append(stack.enter_context(recorder))
                recorder.add(run.without_weights())
            done = self._bytes_of_finished()
            on_gpus = FeedbackPlaces(device.numbers, n_threads)
            groups = stack.enter_context(
                closing(feedback_groups(self._source, self._hessian, self._representatives()))
            )
            for names, moments in groups:
                converters = self._converters(names, moments, on_gpus, n_threads)
                tasks, places, sizes = self._tasks(names, converters)
                job = _make_job(tasks, sizes, n_threads, max_memory, device)
                try:
                    self._finish(job, places, recorders, done)
                    done += job.source_bytes_done
                except BaseException:
                    interrupt(self._source)
                    raise
                finally:
                    job.close()
                    del tasks, converters, moments  # and what they hold of the memory

    def _representatives(self) -> list[PlannedTensor]:
        """One tensor of each name, of an output that fits it to second moments if there is one."""
        return [
            max((place.tensor for place in places), key=has_feedback)
            for places in self._places.values()
        ]

    def _tasks(
        self, names: Collection[str], converters: _Converters
    ) -> tuple[list[QuantizeTask], list[_Place], list[int]]:
        """Tasks, the place of each, and how many of them read one tensor together."""
        wanted = set(names)
        tasks: list[QuantizeTask] = []
        order: list[_Place] = []
        sizes: list[int] = []
        for name, places in self._places.items():
            if name not in wanted:
                continue
            stored = self._source.stored_tensor(name)
            matrices: dict[Any, Any] = {}
            keyed = sorted(((self._key(p), p) for p in places), key=lambda item: item[0])
            for (_, matrix, prior), place in keyed:
                if (matrix, prior) not in matrices:
                    values = self._runs[place.run].imatrix_values(place.tensor) if matrix else None
                    matrices[matrix, prior] = values
                values = matrices[matrix, prior]
                tasks.append(
                    core.QuantizeTask(
                        stored,
                        place.tensor.type.id,
                        output_fd=place.fd,
                        output_offset=place.offset,
                        imatrix=values,
                        converter=converters.make(place.tensor, values),
                    )
                )
                order.append(place)
            sizes.append(len(places))
        return tasks, order, sizes

    def _converters(
        self,
        names: Collection[str],
        moments: Hessian | None,
        on_gpus: FeedbackPlaces,
        n_threads: int,
    ) -> _Converters:
        devices = None
        if moments is not None:
            tensors = (place.tensor for name in names for place in self._places.get(name, ()))
            devices = on_gpus.for_tensors(tensors)
        return _Converters(self._source, moments, devices, n_threads)

    def _key(self, place: _Place) -> tuple[int, str, str]:
        """Equal where type and importances are: such tasks follow each other."""
        run = self._runs[place.run]
        if not run.uses_imatrix(place.tensor):
            return place.tensor.type.id, "", ""
        plan = run.plan
        return place.tensor.type.id, plan.imatrix_sha256 or "", plan.imatrix_prior or "none"

    def _finish(
        self,
        job: QuantizeJob,
        places: Sequence[_Place],
        recorders: Sequence[Recorder],
        before: int,
    ) -> None:
        for run in self._runs:
            run.n_threads = max(run.n_threads, job.n_threads)
        while not job.finished:
            done: dict[int, list[FinishedTensor]] = {}
            for i, error, weights, checksum in job.wait(POLL_MS):
                finished = FinishedTensor(
                    places[i].tensor.name, error, weights, job.output_errors(i), f"{checksum:016x}"
                )
                done.setdefault(places[i].run, []).append(finished)
            for number, tensors in done.items():
                recorders[number].add(tensors)
                self._runs[number].require_proportion([tensor.name for tensor in tensors])
            if self._progress is not None:
                self._progress(self._snapshot(before + job.source_bytes_done, done))
            if self._cancel is not None and self._cancel.is_set() and not job.finished:
                raise Cancelled("stopped by the caller")
        for run in self._runs:
            run.device_rows += job.device_rows
            run.verified_rows += job.verified_rows

    def _bytes_of_finished(self) -> int:
        return sum(t.nbytes for t in self._source.facts.tensors if t.name not in self._places)

    def _snapshot(self, bytes_done: int, done: dict[int, list[FinishedTensor]]) -> Progress:
        return Progress(
            tensors_done=sum(len(run.finished) for run in self._runs),
            n_tensors=sum(len(run.plan.tensors) for run in self._runs),
            bytes_done=bytes_done,
            n_bytes=sum(tensor.nbytes for tensor in self._source.facts.tensors),
            bytes_resumed=self._resumed,
            elapsed_s=time.perf_counter() - self._started,
            finished=tuple(tensor.name for tensors in done.values() for tensor in tensors),
        )


def _make_job(
    tasks: list[QuantizeTask], sizes: list[int], n_threads: int, max_memory: int, device: DeviceUse
) -> QuantizeJob:
    try:
        return core.QuantizeJob(
            tasks, n_threads=n_threads, max_memory=max_memory, devices=device.numbers,
            verify_rate=device.verify_rate, group_sizes=sizes,
        )  # fmt: skip
    except ValueError as error:
        if isinstance(error, ApexError):
            raise
        raise QuantizeError(str(error)) from error  # max_memory is too small for one row
