"""One output on its way: what it is made of, its files and journal, what is finished."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native._native import core
from apex_native.errors import (
    GgufError,
    ImatrixError,
    OutputError,
    PlanError,
    QuantizeError,
)
from apex_native.plan import EntryFit, ImatrixUse, Plan, PlannedTensor, has_own_rules
from apex_native.quantization.feedback import HessianSource
from apex_native.quantization.inputs import importance_of
from apex_native.quantization.journal import FinishedTensor, Journal, read_journal
from apex_native.quantization.manifest import HeaderRecord, QuantizeManifest, tensor_record
from apex_native.quantization.output import (
    Split,
    journal_path,
    model_pairs,
    plan_outputs,
    require_disk_space,
    require_fresh,
    require_unused,
    resume_settings,
    verify_types,
)
from apex_native.quantization.proportion import error_findings
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["OutOfProportionError", "OutputRun"]


class OutOfProportionError(QuantizeError):
    """What strict makes of such a tensor: the work is kept, a run without strict accepts it."""


class OutputRun:
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
        require_unused(self.shards)
        path = journal_path(self.output)
        resuming = resume and path.exists() and all(s.partial.exists() for s in self.shards)
        if resuming:
            self.finished = read_journal(path, self.settings)
            self.n_resumed = len(self.finished)
            self.bytes_resumed = self.source_bytes(self.finished)
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
        except (OSError, OutputError) as error:
            for shard in self.shards:
                shard.close() if resuming else shard.discard()
            if isinstance(error, OutputError):
                raise
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
        except OutOfProportionError as stop:
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

    def _close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        for shard in self.shards:
            shard.close()

    def _keep(self, stop: BaseException) -> None:
        self._close()
        stop.add_note(
            f"{len(self.finished)} of {len(self.plan.tensors)} tensors are done; "
            "go on with `resume=True`"
        )

    def _discard(self) -> None:
        for shard in self.shards:
            shard.discard()
        if self.journal is not None:
            self.journal.remove()

    def places(self) -> dict[str, tuple[PlannedTensor, int, int]]:
        """Of every tensor with weights that is not finished: its plan, file and byte offset."""
        return {
            tensor.name: (tensor, shard.fd, shard.layout.header_bytes + offset)
            for shard in self.shards
            for tensor, offset in zip(shard.tensors, shard.layout.offsets, strict=True)
            if tensor.name not in self.finished and tensor.nbytes
        }

    def without_weights(self) -> list[FinishedTensor]:
        """Tensors with a dimension of 0: there is nothing to do."""
        return [
            FinishedTensor(tensor.name, 0.0, 0.0)
            for tensor in self.plan.tensors
            if tensor.nbytes == 0 and tensor.name not in self.finished
        ]

    def uses_imatrix(self, tensor: PlannedTensor) -> bool:
        """Whether the tensor's columns are weighed."""
        wanted = tensor.imatrix in (ImatrixUse.REQUIRED, ImatrixUse.USED)
        return self.importance is not None and wanted and tensor.imatrix_entry is EntryFit.FITS

    def imatrix_values(self, tensor: PlannedTensor) -> Any:
        """The columns' weights, float32, where they are weighed; else None."""
        if self.importance is None or not self.uses_imatrix(tensor):
            return None
        return self.importance.values(tensor.name)

    def abandon(self) -> None:
        """Close what prepare opened, when another output cannot be prepared."""
        if self.finished:
            self._close()
        else:
            self._discard()

    def source_bytes(self, names: Iterable[str]) -> int:
        """Stored bytes of these tensors in the source."""
        sizes = {tensor.name: tensor.nbytes for tensor in self.source.facts.tensors}
        return sum(sizes[name] for name in names)

    def require_proportion(self, names: Iterable[str]) -> None:
        """Raise OutOfProportionError for one of them with too large an error, if strict."""
        if not self.strict:
            return
        planned = {tensor.name: tensor for tensor in self.plan.tensors}
        for finding in error_findings(
            tensor_record(planned[name], self.finished[name]) for name in names
        ):
            raise OutOfProportionError(
                f"{finding.tensor}: {finding.message}, or leave `strict=True` out"
            )

    def complete(self) -> None:
        """Write headers, compare what is in the files with the plan."""
        pairs = model_pairs(self.source, self.plan)
        for shard in self.shards:
            shard.write_header(pairs)
            verify_types(shard)

    def publish(self) -> None:
        """Give the files their names."""
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
            headers=tuple(HeaderRecord.of(shard.written_header) for shard in self.shards),
            total_bytes=sum(shard.layout.total_bytes for shard in self.shards),
            tier=plan.tier,
            ftype=plan.ftype,
            semantics=plan.semantics,
            bpw=plan.bpw,
            rules_sha256=plan.rules_sha256,
            own_rules=has_own_rules(plan),
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
