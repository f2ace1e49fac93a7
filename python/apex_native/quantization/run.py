"""Carry out a plan: source GGUF in, quantized GGUF out, crash-safe and resumable."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native._native import core
from apex_native.errors import (
    Cancelled,
    GgufError,
    ImatrixError,
    OutputError,
    PlanError,
    QuantizeError,
)
from apex_native.gguf import open_gguf
from apex_native.plan import EntryFit, ImatrixUse, Plan, PlannedTensor
from apex_native.quantization.device import DeviceUse, start_driver
from apex_native.quantization.feedback import (
    HessianSource,
    feedback_for,
    feedback_groups,
    with_hessian_metadata,
)
from apex_native.quantization.inputs import check_inputs, importance_of, values_of
from apex_native.quantization.journal import FinishedTensor, Journal, read_journal
from apex_native.quantization.manifest import QuantizeManifest, tensor_record
from apex_native.quantization.output import (
    Split,
    journal_path,
    model_pairs,
    plan_outputs,
    require_disk_space,
    require_fresh,
    resume_settings,
    verify_types,
)
from apex_native.quantization.progress import Progress
from apex_native.quantization.proportion import error_findings
from apex_native.quantization.recorder import Recorder
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native._core import QuantizeJob, QuantizeTask
    from apex_native.imatrix import Hessian, Imatrix

__all__ = ["DEFAULT_MAX_MEMORY", "quantize_model"]

DEFAULT_MAX_MEMORY = 2 << 30
"""Bytes for the workers' buffers, above the mapped input."""

POLL_MS = 100
"""How often cancellation, Ctrl-C and progress are looked at."""


def quantize_model(
    source: WeightSource | str | os.PathLike[str],
    plan: Plan | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    hessian: HessianSource | None = None,
    n_threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    split_max_size: int | None = None,
    keep_split: bool = False,
    allow_requantize: bool = False,
    resume: bool = False,
    force: bool = False,
    strict: bool = False,
    device: str = "cpu",
    verify_gpu: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizeManifest:
    """Write ``output`` as ``plan`` says and return what it cost, tensor by tensor.

    source: a GGUF file, open or by its path, or any other `WeightSource`. plan (a saved plan.json)
    and imatrix may be paths too.

    Tensor data equal llama-quantize's byte for byte for the same source, type and imatrix, for
    any n_threads and max_memory (bytes of buffers above the mapped input). split_max_size (bytes)
    makes shards; keep_split cuts where the source is cut. Data are in ``output.partial``, beside a
    journal that resume goes on from; the output has its name when it is whole and checked.

    hessian: second moments of the same model's inputs. Tensors in a type that error feedback has a
    format for get bytes with less error of outputs than ggml's, where held-out tokens agree; the
    manifest says how much less.

    strict: raise where the plan has warnings, and where a written tensor's error is out of
    proportion; otherwise the manifest's findings say so.

    device: "cpu", "cuda" (the first GPU), "cuda:1" or "cuda:all". GPUs take the types they have
    kernels for and write the CPU's bytes; verify_gpu is the share of their rows (0 to 1) that the
    CPU quantizes again to compare.

    Raises PlanError (the plan does not fit the file, or cannot be carried out), ImatrixError,
    QuantizeError (NaN, Inf, overflow: names tensor, expert and row; a verified row that differs;
    with strict a tensor whose error is out of proportion for its type, resumable without strict),
    DeviceError (no such GPU, not enough memory, a failed CUDA call; resumable), OutputError
    (exists, is the input, disk full), Cancelled (resumable).
    """
    plan, imatrix = values_of(plan, imatrix)
    start_driver(device)
    if isinstance(source, str | os.PathLike):
        with open_gguf(source) as opened:
            return quantize_model(
                opened, plan, output, imatrix=imatrix, hessian=hessian, n_threads=n_threads,
                max_memory=max_memory, split_max_size=split_max_size, keep_split=keep_split,
                allow_requantize=allow_requantize, resume=resume, force=force, strict=strict,
                device=device, verify_gpu=verify_gpu, progress=progress, cancel=cancel,
            )  # fmt: skip
    check_inputs(source, plan, imatrix, allow_requantize=allow_requantize)
    if strict:
        plan.require_clean()
    if hessian is not None:
        plan = with_hessian_metadata(plan, hessian.digest, hessian.n_tokens)
    split = Split(split_max_size, keep_split)
    run = _Run(source, plan, Path(output), imatrix, hessian, split, strict=strict)
    device_use = DeviceUse.parse(device, verify_gpu)
    run.prepare(resume=resume, force=force)
    with run.kept_or_discarded():
        run.convert(n_threads or device_use.n_threads(), max_memory, device_use, progress, cancel)
        run.finish()
    return run.manifest()


class _OutOfProportionError(QuantizeError):
    """What strict makes of such a tensor: the work is kept, a run without strict accepts it."""


class _Run:
    """One execution of a plan, from the checks to the published file."""

    def __init__(
        self,
        source: WeightSource,
        plan: Plan,
        output: Path,
        imatrix: Imatrix | None,
        hessian: HessianSource | None,
        split: Split,
        *,
        strict: bool,
    ) -> None:
        self.source = source
        self.strict = strict
        self.plan = plan
        self.output = output
        self.importance = importance_of(source, plan, imatrix)
        self.hessian = hessian
        self.shards = plan_outputs(plan, output, split, source)
        self.fingerprint = source.fingerprint()
        digest = None if hessian is None else hessian.digest
        self.settings = resume_settings(self.fingerprint, plan, digest, self.shards)
        self.finished: dict[str, FinishedTensor] = {}
        self.n_resumed = self.bytes_resumed = 0
        self.n_threads = 0
        self.device_rows = self.verified_rows = 0
        self.started = time.perf_counter()
        self.journal: Journal | None = None

    def prepare(self, *, resume: bool, force: bool) -> None:
        """Check names and space, then open the partial files, fresh or to go on with."""
        require_fresh(self.shards, self._inputs(), force=force)
        path = journal_path(self.output)
        resuming = resume and path.exists() and all(s.partial.exists() for s in self.shards)
        if resuming:
            self.finished = read_journal(path, self.settings)
            self.n_resumed = len(self.finished)
            self.bytes_resumed = self._source_bytes(self.finished)
        elif path.exists() and not (resume or force):
            raise OutputError(
                f"{path} is left from an interrupted run; pass `resume=True` to go on with it or "
                "`force=True` to start again"
            )
        reserved = sum(s.partial.stat().st_blocks * 512 for s in self.shards if s.partial.exists())
        require_disk_space(self.shards, reserved=reserved)
        try:
            for shard in self.shards:
                shard.open(resume=resuming)
            self.journal = Journal(path, self.settings, new=not resuming)
        except OSError as error:
            for shard in self.shards:
                shard.close() if resuming else shard.discard()
            raise OutputError(
                f"cannot write {error.filename or self.output}: {error.strerror}"
            ) from error

    def _inputs(self) -> tuple[Path, ...]:
        matrix = () if self.importance is None else (self.importance.imatrix.path,)
        return (*self.source.shard_paths, *matrix)

    @contextmanager
    def kept_or_discarded(self) -> Iterator[None]:
        """Leave a resumable state after a stop, nothing after an error that would come again."""
        assert self.journal is not None
        try:
            yield
        except _OutOfProportionError as stop:
            self._keep(stop)
            raise
        except (GgufError, ImatrixError, PlanError, QuantizeError):
            self._discard()  # the source is at fault: another one cannot be resumed into this file
            raise
        except BaseException as stop:
            if not self.finished:
                self._discard()
                raise
            self._keep(stop)
            raise

    def _keep(self, stop: BaseException) -> None:
        assert self.journal is not None
        self.journal.close()
        for shard in self.shards:
            shard.close()
        stop.add_note(
            f"{len(self.finished)} of {len(self.plan.tensors)} tensors are done; "
            "go on with `resume=True`"
        )

    def _discard(self) -> None:
        for shard in self.shards:
            shard.discard()
        if self.journal is not None:
            self.journal.remove()

    def _tasks(
        self, names: Collection[str], hessian: Hessian | None
    ) -> list[tuple[PlannedTensor, QuantizeTask]]:
        tasks = []
        for shard in self.shards:
            for tensor, offset in zip(shard.tensors, shard.layout.offsets, strict=True):
                if tensor.name in names and tensor.name not in self.finished and tensor.nbytes:
                    position = shard.layout.header_bytes + offset
                    values = self._imatrix_values(tensor)
                    task = core.QuantizeTask(
                        self.source.stored_tensor(tensor.name),
                        tensor.type.id,
                        output_fd=shard.fd,
                        output_offset=position,
                        imatrix=values,
                        converter=feedback_for(self.source, tensor, values, hessian),
                    )
                    tasks.append((tensor, task))
        return tasks

    def _without_weights(self) -> list[FinishedTensor]:
        """Tensors with a dimension of 0: there is nothing to do."""
        return [
            FinishedTensor(tensor.name, 0.0, 0.0)
            for tensor in self.plan.tensors
            if tensor.nbytes == 0 and tensor.name not in self.finished
        ]

    def _imatrix_values(self, tensor: PlannedTensor) -> Any:
        wanted = tensor.imatrix in (ImatrixUse.REQUIRED, ImatrixUse.USED)
        if self.importance is None or not wanted or tensor.imatrix_entry is not EntryFit.FITS:
            return None
        return self.importance.values(tensor.name)

    def convert(
        self,
        n_threads: int,
        max_memory: int,
        device: DeviceUse,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """Quantize every tensor that is not finished yet."""
        self._require_proportion(self.finished)
        assert self.journal is not None
        left = [tensor for tensor in self.plan.tensors if tensor.name not in self.finished]
        with Recorder(self.journal, self.shards, self.finished) as recorder:
            recorder.add(self._without_weights())
            for names, hessian in feedback_groups(self.hessian, left):
                tasks = self._tasks(names, hessian)
                job = core.QuantizeJob(
                    [task for _, task in tasks],
                    n_threads=n_threads,
                    max_memory=max_memory,
                    devices=device.numbers,
                    verify_rate=device.verify_rate,
                )
                try:
                    self._finish(
                        job, [tensor.name for tensor, _ in tasks], recorder, progress, cancel
                    )
                finally:
                    job.close()

    def _finish(
        self,
        job: QuantizeJob,
        names: Sequence[str],
        recorder: Recorder,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        before = self._source_bytes(self.finished)
        self.n_threads = max(self.n_threads, job.n_threads)
        while not job.finished:
            done = [
                FinishedTensor(names[i], error, weights, job.output_errors(i))
                for i, error, weights in job.wait(POLL_MS)
            ]
            recorder.add(done)
            self._require_proportion([tensor.name for tensor in done])
            if progress is not None:
                progress(self._snapshot(before + job.source_bytes_done, done))
            if cancel is not None and cancel.is_set() and not job.finished:
                raise Cancelled("stopped by the caller")
        self.device_rows += job.device_rows
        self.verified_rows += job.verified_rows

    def _source_bytes(self, names: Iterable[str]) -> int:
        sizes = {tensor.name: tensor.nbytes for tensor in self.source.facts.tensors}
        return sum(sizes[name] for name in names)

    def _require_proportion(self, names: Iterable[str]) -> None:
        if not self.strict:
            return
        planned = {tensor.name: tensor for tensor in self.plan.tensors}
        for finding in error_findings(
            tensor_record(planned[name], self.finished[name]) for name in names
        ):
            raise _OutOfProportionError(
                f"{finding.tensor}: {finding.message}, or leave `strict=True` out"
            )

    def _snapshot(self, bytes_done: int, done: list[FinishedTensor]) -> Progress:
        return Progress(
            tensors_done=len(self.finished),
            n_tensors=len(self.plan.tensors),
            bytes_done=bytes_done,
            n_bytes=sum(tensor.nbytes for tensor in self.source.facts.tensors),
            bytes_resumed=self.bytes_resumed,
            elapsed_s=time.perf_counter() - self.started,
            finished=tuple(tensor.name for tensor in done),
        )

    def finish(self) -> None:
        """Write headers, compare what is in the files with the plan, publish."""
        pairs = model_pairs(self.source, self.plan)
        for shard in self.shards:
            shard.write_header(pairs)
            verify_types(shard)
        # The first shard last: a loader begins with it, so the set is usable only when complete.
        for shard in reversed(self.shards):
            shard.publish()
        assert self.journal is not None
        self.journal.remove()

    def manifest(self) -> QuantizeManifest:
        """The record of the finished run."""
        plan = self.plan
        records = tuple(
            tensor_record(tensor, self.finished[tensor.name]) for tensor in plan.tensors
        )
        return QuantizeManifest(
            files=tuple(shard.path for shard in self.shards),
            total_bytes=sum(shard.layout.total_bytes for shard in self.shards),
            tier=plan.tier,
            ftype=plan.ftype,
            semantics=plan.semantics,
            bpw=plan.bpw,
            rules_sha256=plan.rules_sha256,
            imatrix_sha256=plan.imatrix_sha256,
            imatrix_prior=plan.imatrix_prior,
            source_fingerprint=self.fingerprint,
            build=core.build_info(),
            n_threads=self.n_threads,
            elapsed_s=time.perf_counter() - self.started,
            resumed_tensors=self.n_resumed,
            device_rows=self.device_rows,
            verified_rows=self.verified_rows,
            tensors=records,
            findings=(*plan.findings, *error_findings(records)),
            hessian_digest=None if self.hessian is None else self.hessian.digest,
            hessian_tokens=0 if self.hessian is None else self.hessian.n_tokens,
        )
