"""Carry out a plan: source GGUF in, quantized GGUF out, crash-safe and resumable."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native._native import core
from apex_native.errors import (
    ApexError,
    Cancelled,
    GgufError,
    ImatrixError,
    OutputError,
    PlanError,
    QuantizeError,
)
from apex_native.gguf import GgufFile, open_gguf
from apex_native.gguf_encode import encode_entry
from apex_native.plan import EntryFit, ImatrixUse, Plan, PlannedTensor
from apex_native.quantization.device import DeviceUse, start_driver
from apex_native.quantization.inputs import check_inputs
from apex_native.quantization.journal import FinishedTensor, Journal, read_journal
from apex_native.quantization.manifest import QuantizeManifest, TensorRecord
from apex_native.quantization.output import (
    OutputShard,
    journal_path,
    plan_outputs,
    require_disk_space,
    require_fresh,
)
from apex_native.quantization.progress import Progress
from apex_native.quantization.recorder import Recorder

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["DEFAULT_MAX_MEMORY", "quantize_model"]

DEFAULT_MAX_MEMORY = 2 << 30
"""Bytes for the workers' buffers, above the mapped input."""

POLL_MS = 100
"""How often cancellation, Ctrl-C and progress are looked at."""


def quantize_model(
    source: GgufFile | str | os.PathLike[str],
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    imatrix: Imatrix | None = None,
    n_threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    split_max_size: int | None = None,
    allow_requantize: bool = False,
    resume: bool = False,
    force: bool = False,
    device: str = "cpu",
    verify_gpu: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizeManifest:
    """Write ``output`` as ``plan`` says and return what it cost, tensor by tensor.

    Tensor data equal llama-quantize's byte for byte for the same source, type and imatrix, for
    any n_threads and max_memory (bytes of buffers above the mapped input). split_max_size (bytes)
    makes shards. While it runs the data are in ``output.partial`` beside a journal; resume goes on
    from there. The output appears under its name when it is whole and checked, never before.

    device: "cpu", "cuda" (the first GPU), "cuda:1" or "cuda:all". GPUs take the types they have
    kernels for and write the CPU's bytes; verify_gpu is the share of their rows (0 to 1) that the
    CPU quantizes again to compare.

    Raises PlanError (the plan does not fit the file, or cannot be carried out), ImatrixError,
    QuantizeError (NaN, Inf, overflow: names tensor, expert and row; a verified row that differs),
    DeviceError (no such GPU, not enough memory, a failed CUDA call; resumable), OutputError
    (exists, is the input, disk full), Cancelled (resumable).
    """
    start_driver(device)
    if not isinstance(source, GgufFile):
        with open_gguf(source) as opened:
            return quantize_model(
                opened, plan, output, imatrix=imatrix, n_threads=n_threads, max_memory=max_memory,
                split_max_size=split_max_size, allow_requantize=allow_requantize, resume=resume,
                force=force, device=device, verify_gpu=verify_gpu, progress=progress,
                cancel=cancel,
            )  # fmt: skip
    check_inputs(source, plan, imatrix, allow_requantize=allow_requantize)
    run = _Run(source, plan, Path(output), imatrix, split_max_size)
    device_use = DeviceUse.parse(device, verify_gpu)
    run.prepare(resume=resume, force=force)
    with run.kept_or_discarded():
        run.convert(n_threads or device_use.n_threads(), max_memory, device_use, progress, cancel)
        run.finish()
    return run.manifest()


class _Run:
    """One execution of a plan, from the checks to the published file."""

    def __init__(
        self,
        source: GgufFile,
        plan: Plan,
        output: Path,
        imatrix: Imatrix | None,
        split_max_size: int | None,
    ) -> None:
        self.source = source
        self.plan = plan
        self.output = output
        self.imatrix = imatrix
        self.shards = plan_outputs(plan, output, split_max_size)
        self.fingerprint = source.fingerprint()
        self.settings: Mapping[str, Any] = {
            "source": self.fingerprint,
            "types": plan.rules_sha256,
            "imatrix": plan.imatrix_sha256,
            "imatrix_prior": plan.imatrix_prior,
            "total_bytes": plan.total_bytes,
            "split_max_size": split_max_size if len(self.shards) > 1 else None,
            "version": core().build_info()["version"],
            "llama_cpp_commit": core().build_info()["llama_cpp_commit"],
        }
        self.finished: dict[str, FinishedTensor] = {}
        self.n_resumed = 0
        self.n_threads = 0
        self.device_rows = self.verified_rows = 0
        self.started = time.perf_counter()
        self.journal: Journal | None = None

    def prepare(self, *, resume: bool, force: bool) -> None:
        """Check names and space, then open the partial files, fresh or to go on with."""
        require_fresh(self.shards, self.source.shard_paths, force=force)
        path = journal_path(self.output)
        resuming = resume and path.exists() and all(s.partial.exists() for s in self.shards)
        if resuming:
            self.finished = read_journal(path, self.settings)
            self.n_resumed = len(self.finished)
        elif path.exists() and not (resume or force):
            raise OutputError(
                f"{path} is left from an interrupted run; pass --resume to go on with it or "
                "--force to start again"
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

    @contextmanager
    def kept_or_discarded(self) -> Iterator[None]:
        """Leave a resumable state after a stop, nothing after an error that would come again."""
        assert self.journal is not None
        try:
            yield
        except (GgufError, ImatrixError, PlanError, QuantizeError):
            self._discard()  # the source is at fault: another one cannot be resumed into this file
            raise
        except BaseException as stop:
            if not self.finished:
                self._discard()
                raise
            self.journal.close()
            for shard in self.shards:
                shard.close()
            stop.add_note(
                f"{len(self.finished)} of {len(self.plan.tensors)} tensors are done; "
                "go on with --resume"
            )
            raise

    def _discard(self) -> None:
        for shard in self.shards:
            shard.discard()
        if self.journal is not None:
            self.journal.remove()

    def _tasks(self) -> list[tuple[PlannedTensor, tuple[int, int, int, int, Any]]]:
        tasks = []
        for shard in self.shards:
            for tensor, offset in zip(shard.tensors, shard.layout.offsets, strict=True):
                if tensor.name not in self.finished:
                    position = shard.layout.header_bytes + offset
                    task = (
                        self.source.index(tensor.name),
                        tensor.type.id,
                        shard.fd,
                        position,
                        self._imatrix_values(tensor),
                    )
                    tasks.append((tensor, task))
        return tasks

    def _imatrix_values(self, tensor: PlannedTensor) -> Any:
        wanted = tensor.imatrix in (ImatrixUse.REQUIRED, ImatrixUse.USED)
        if self.imatrix is None or not wanted or tensor.imatrix_entry is not EntryFit.FITS:
            return None
        return self.imatrix.entries[tensor.name].values

    def convert(
        self,
        n_threads: int,
        max_memory: int,
        device: DeviceUse,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """Quantize every tensor that is not finished yet."""
        tasks = self._tasks()
        n_bytes = sum(tensor.nbytes for tensor in self.source.tensors)
        left = sum(self.source.tensors[task[0]].nbytes for _, task in tasks)
        job = core().QuantizeJob(
            self.source.native,
            [task for _, task in tasks],
            n_threads=n_threads,
            max_memory=max_memory,
            devices=device.numbers,
            verify_rate=device.verify_rate,
        )
        self.n_threads = job.n_threads
        try:
            assert self.journal is not None
            with Recorder(self.journal, self.shards, self.finished) as recorder:
                while not job.finished:
                    news = job.wait(POLL_MS)
                    done = [
                        FinishedTensor(tasks[i][0].name, error, weights)
                        for i, error, weights in news
                    ]
                    recorder.add(done)
                    if progress is not None:
                        progress(self._snapshot(n_bytes, left, job.source_bytes_done, done))
                    if cancel is not None and cancel.is_set() and not job.finished:
                        raise Cancelled("stopped by the caller")
                self.device_rows, self.verified_rows = job.device_rows, job.verified_rows
        finally:
            job.close()

    def _snapshot(
        self, n_bytes: int, left: int, job_bytes: int, done: list[FinishedTensor]
    ) -> Progress:
        return Progress(
            tensors_done=len(self.finished),
            n_tensors=len(self.plan.tensors),
            bytes_done=n_bytes - left + job_bytes,
            n_bytes=n_bytes,
            bytes_resumed=n_bytes - left,
            elapsed_s=time.perf_counter() - self.started,
            finished=tuple(tensor.name for tensor in done),
        )

    def finish(self) -> None:
        """Write headers, compare what is in the files with the plan, publish."""
        pairs = self._model_pairs()
        for shard in self.shards:
            shard.write_header(pairs)
            self._verify(shard)
        # The first shard last: a loader begins with it, so the set is usable only when complete.
        for shard in reversed(self.shards):
            shard.publish()
        assert self.journal is not None
        self.journal.remove()

    def _model_pairs(self) -> list[bytes]:
        replaced = {entry.key for entry in self.plan.metadata} | set(self.plan.metadata_removed)
        kept = [key for key in self.source.facts.kv_sizes if key not in replaced]
        return [
            *(self.source.encoded_pair(key) for key in kept),
            *(encode_entry(entry) for entry in self.plan.metadata),
        ]

    def _verify(self, shard: OutputShard) -> None:
        with GgufFile(shard.partial, with_siblings=False) as written:
            found = {tensor.name: tensor.type for tensor in written.tensors}
        if found != {tensor.name: tensor.type for tensor in shard.tensors}:
            raise ApexError(f"{shard.partial}: types in the written file differ from the plan")

    def manifest(self) -> QuantizeManifest:
        """The record of the finished run."""
        plan = self.plan
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
            build=core().build_info(),
            n_threads=self.n_threads,
            elapsed_s=time.perf_counter() - self.started,
            resumed_tensors=self.n_resumed,
            device_rows=self.device_rows,
            verified_rows=self.verified_rows,
            tensors=tuple(
                TensorRecord(
                    name=tensor.name,
                    role=tensor.role,
                    layer=tensor.layer,
                    shape=tensor.shape,
                    source_type=tensor.source_type,
                    type=tensor.type,
                    nbytes=tensor.nbytes,
                    squared_error=self.finished[tensor.name].squared_error,
                    squared_weights=self.finished[tensor.name].squared_weights,
                )
                for tensor in plan.tensors
            ),
        )
