"""Carry out plans: source GGUF in, quantized GGUFs out, crash-safe and resumable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.argument_kinds import require_kind
from apex_native.conversion import open_source
from apex_native.errors import GgufError, OutputError, PlanError
from apex_native.gguf import open_gguf
from apex_native.plan import Plan
from apex_native.quantization.conversion import Conversion
from apex_native.quantization.device import DeviceUse, start_driver
from apex_native.quantization.feedback import (
    HessianSource,
    planned_digest,
    with_hessian_metadata,
)
from apex_native.quantization.inputs import check_inputs, values_of
from apex_native.quantization.manifest import QuantizeManifest
from apex_native.quantization.output import Split, journal_path
from apex_native.quantization.output_run import OutputRun
from apex_native.quantization.progress import Progress
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["DEFAULT_MAX_MEMORY", "QuantizeTarget", "quantize_many", "quantize_model"]

DEFAULT_MAX_MEMORY = 2 << 30
"""Bytes for the workers' buffers, above the mapped input."""


@dataclass(frozen=True, slots=True)
class QuantizeTarget:
    """One output of `quantize_many`; plan and imatrix may be paths.

    header: all bytes before the data section, for a copy that keeps another writer's. manifest:
    where the manifest is written, before the output gets its name: there is none without it.
    """

    plan: Plan | str | os.PathLike[str]
    output: str | os.PathLike[str]
    imatrix: Imatrix | str | os.PathLike[str] | None = None
    header: bytes | None = None
    manifest: str | os.PathLike[str] | None = None


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
    manifest: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizeManifest:
    """Write ``output`` as ``plan`` says and return what it cost, tensor by tensor.

    source: a GGUF file or a checkpoint's folder, open or by its path, or another `WeightSource`;
    plan (a saved plan.json) and imatrix may be paths too.

    Tensor data equal llama-quantize's byte for byte for the same source, type and imatrix, for
    any n_threads and max_memory (bytes of buffers above the mapped input). split_max_size (bytes)
    makes shards; keep_split cuts where the source is cut. Data are in ``output.partial``, beside a
    journal that resume goes on from; the output has its name when it is whole and checked.

    hessian: second moments of the same model's inputs. Tensors in a type that error feedback has a
    format for get bytes with less error of outputs than ggml's, where held-out tokens agree; the
    manifest says how much less.

    strict: raise where the plan has warnings, and where a written tensor's error is out of
    proportion; otherwise the manifest's findings say so.

    manifest: where the manifest is written too, before the output gets its name.

    device: "cpu", "cuda" (the first GPU), "cuda:1" or "cuda:all". GPUs take the types they have
    kernels for and write the CPU's bytes; verify_gpu is the share of their rows (0 to 1) that the
    CPU quantizes again to compare.

    Raises PlanError (the plan does not fit the file, or cannot be carried out), ImatrixError,
    QuantizeError (NaN, Inf, overflow: names tensor, expert and row; a verified row that differs;
    with strict a tensor whose error is out of proportion for its type, resumable without strict),
    DeviceError (no such GPU, not enough memory, a failed CUDA call; resumable), OutputError
    (exists, is the input, disk full), Cancelled (resumable).
    """
    target = QuantizeTarget(plan, output, imatrix, manifest=manifest)
    (found,) = quantize_many(
        source, [target], hessian=hessian, n_threads=n_threads,
        max_memory=max_memory, split_max_size=split_max_size, keep_split=keep_split,
        allow_requantize=allow_requantize, resume=resume, force=force, strict=strict,
        device=device, verify_gpu=verify_gpu, progress=progress, cancel=cancel,
    )  # fmt: skip
    return found


def quantize_many(
    source: WeightSource | str | os.PathLike[str],
    targets: Sequence[QuantizeTarget],
    *,
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
    finished: Callable[[QuantizeManifest], None] | None = None,
) -> tuple[QuantizeManifest, ...]:
    """Write several files from one source, which is read and widened once.

    Every file has the bytes that `quantize_model` gives it alone; where two want a tensor in one
    type with one matrix it is quantized once. Arguments and errors are `quantize_model`'s, and one
    error stops them all; each has its own partial file and journal. With resume those that are
    whole already are left as they are. finished gets a manifest as soon as its file has its name.

    Gives the manifests of the files that were written, in the order of targets. Raises OutputError
    also where two targets are one file.
    """
    for target in targets:
        require_kind("targets", target, QuantizeTarget, "give apex.QuantizeTarget(plan, output)")
    read = [(*values_of(t.plan, t.imatrix), Path(t.output), t) for t in targets]
    start_driver(device)
    if isinstance(source, str | os.PathLike):
        with open_source(source) as opened:
            return quantize_many(
                opened, [replace(t, plan=p, imatrix=m) for p, m, _, t in read],
                hessian=hessian, n_threads=n_threads, max_memory=max_memory,
                split_max_size=split_max_size, keep_split=keep_split,
                allow_requantize=allow_requantize, resume=resume, force=force, strict=strict,
                device=device, verify_gpu=verify_gpu, progress=progress, cancel=cancel,
                finished=finished,
            )  # fmt: skip
    _require_distinct([path for _, _, path, _ in read])
    runs = []
    for plan, imatrix, path, target in read:
        split = Split(split_max_size, keep_split, target.header)
        check_inputs(source, plan, imatrix, allow_requantize=allow_requantize)
        runs.append(_run(source, plan, path, imatrix, hessian, split, strict=strict))
    if resume and len(runs) > 1:
        runs = [run for run in runs if not _is_whole(run)]
    devices = DeviceUse.parse(device, verify_gpu)
    _prepare(runs, resume=resume, force=force)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.kept_or_discarded())
        work = Conversion(source, runs, hessian, progress, cancel)
        work.run(n_threads or devices.n_threads(), max_memory, devices)
        places = {Path(target.output): target.manifest for target in targets}
        return tuple(_named(run, places[run.output], finished) for run in runs)


def _named(
    run: OutputRun,
    place: str | os.PathLike[str] | None,
    finished: Callable[[QuantizeManifest], None] | None,
) -> QuantizeManifest:
    run.complete()
    manifest = run.manifest()
    if place is not None:
        manifest.save(place)
    run.publish()
    if finished is not None:
        finished(manifest)
    return manifest


def _run(
    source: WeightSource,
    plan: Plan,
    output: Path,
    imatrix: Imatrix | None,
    hessian: HessianSource | None,
    split: Split,
    *,
    strict: bool,
) -> OutputRun:
    if strict:
        plan.require_clean()
    if hessian is not None:
        plan = with_hessian_metadata(plan, hessian.digest, hessian.n_tokens)
    elif planned_digest(plan) is not None:
        raise PlanError(
            "this plan's bytes are fitted to second moments, and the file will say so; give the "
            "`hessian` it was made with"
        )
    return OutputRun(source, plan, output, imatrix, hessian, split, strict=strict)


def _require_distinct(paths: Sequence[Path]) -> None:
    real = [os.path.realpath(path) for path in paths]
    twice = next(
        (path for path, name in zip(paths, real, strict=True) if real.count(name) > 1), None
    )
    if twice is not None:
        raise OutputError(f"two outputs would be {twice}; give each a name of its own")


def _is_whole(run: OutputRun) -> bool:
    """The output is there, of this plan, and no run of it was interrupted."""
    if journal_path(run.output).exists() or not all(s.path.exists() for s in run.shards):
        return False
    try:
        with open_gguf(run.shards[0].path) as written:
            facts = written.facts
            types = {tensor.name: tensor.type for tensor in facts.tensors}
    except GgufError:
        return False
    stated = {entry.key: entry.value for entry in run.plan.metadata}
    same = all(facts.metadata.get(key, value) == value for key, value in stated.items())
    return same and types == run.plan.types


def _prepare(runs: Sequence[OutputRun], *, resume: bool, force: bool) -> None:
    """Open all outputs, or none."""
    for i, run in enumerate(runs):
        try:
            run.prepare(resume=resume, force=force)
        except BaseException:
            for other in runs[:i]:
                other.abandon()
            raise
