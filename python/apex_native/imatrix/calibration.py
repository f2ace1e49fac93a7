"""From a model file and a text to an importance matrix: loading, both passes, merging, writing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apex_native.engine import Placement
from apex_native.errors import DataError, OutputError
from apex_native.gguf import open_gguf
from apex_native.imatrix.all_experts import with_all_experts
from apex_native.imatrix.calibration_text import AnyCalibrationText, TextForModel, open_text
from apex_native.imatrix.collect import DEFAULT_BATCH, DEFAULT_CONTEXT, collect_imatrix
from apex_native.imatrix.collection import bytes_of_sums
from apex_native.imatrix.collection_plan import Scope
from apex_native.imatrix.copies import places_of
from apex_native.imatrix.entries import Imatrix
from apex_native.imatrix.files import ImatrixFormat, save_imatrix
from apex_native.imatrix.merge import merge_imatrices
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.interrupt import cancellable
from apex_native.requirements import Work, require_able
from apex_native.streaming import MAX_CHUNKS, LargeBatches

__all__ = ["calibrate"]


def calibrate(
    model: str | os.PathLike[str],
    text: AnyCalibrationText,
    *,
    ctx: int = DEFAULT_CONTEXT,
    skip_chunks: int = 0,
    max_chunks: int | None = None,
    min_expert_tokens: int = 0,
    parse_special: bool = False,
    all_experts: bool = False,
    scope: Scope = "everything",
    batch: int = DEFAULT_BATCH,
    ubatch: int | None = None,
    placement: Placement | Sequence[Placement] | None = None,
    gpu_memory: int | None = None,
    added: Sequence[Imatrix] = (),
    output: str | os.PathLike[str] | None = None,
    hessian: str | os.PathLike[str] | None = None,
    format: ImatrixFormat | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[ImatrixProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Imatrix:
    """Load a model with its MTP block and collect its importance matrix.

        apex.calibrate("bf16.gguf", "diverse", output="imatrix.gguf")

    text: a text file or several, a recipe of `apex_native.corpus`, a `Corpus`, or a
    `CalibrationText`; parse_special is of files. all_experts: one more pass with every expert
    active, kept beside the first for priors. placement: threads and GPUs; several of them load a
    copy of the model each, which share the chunks and give the same bytes. Where nothing is said of
    several GPUs, each of them that holds the whole model has a copy. gpu_memory: bytes of one GPU
    at most: experts that do not fit are streamed, many chunks go together whatever batch and ubatch
    say, and the MTP block is left out. added: matrices to merge the new one with. format: of
    output, by default what its name says. hessian: a file for the second moments of the inputs, of
    the routed pass. Everything else is as in `collect_imatrix`.

    Raises DataError and CorpusError for the text, and what `load_model` and `collect_imatrix`
    raise.
    """
    target = _Target.of(output, format, added)
    target.require_fresh(force=force)
    options = {
        "ctx": ctx,
        "batch": batch,
        "ubatch": ubatch,
        "skip_chunks": skip_chunks,
        "max_chunks": max_chunks,
        "min_expert_tokens": min_expert_tokens,
        "scope": scope,
        "checkpoint_every": checkpoint_every,
        "resume": resume,
        "force": force,
    }
    chosen = open_text(text, parse_special=parse_special)
    require_able(model, Work.CALIBRATION)
    where = _limited(places_of(placement, model, gpu_memory), gpu_memory, model, ctx, max_chunks)
    with cancellable(cancel):
        run = _Calibration(Path(model), chosen, where, options, hessian, progress, cancel)
        own = run.both_passes(target.collected) if all_experts else run.one_pass(target.collected)
    return target.completed(own)


def _limited(
    places: Sequence[Placement],
    gpu_memory: int | None,
    model: str | os.PathLike[str],
    ctx: int,
    max_chunks: int | None,
) -> Sequence[Placement]:
    """The places that are told what will be computed, where that decides them."""
    nbytes = places[0].gpu_memory if gpu_memory is None else gpu_memory
    if nbytes is None:
        return places
    if len(places) > 1:
        raise ValueError("gpu_memory is of one GPU; give one placement")
    with open_gguf(model) as file:
        sums = bytes_of_sums(file.facts)
    batches = LargeBatches(ctx, max_chunks or MAX_CHUNKS, n_outputs=ctx, beside=sums)
    return (replace(places[0], gpu_memory=nbytes, batches=batches),)


@dataclass(frozen=True, slots=True)
class _Target:
    """The file that is asked for, and what else goes into it."""

    path: Path | None
    format: ImatrixFormat
    added: Sequence[Imatrix]

    @classmethod
    def of(
        cls,
        output: str | os.PathLike[str] | None,
        format: ImatrixFormat | None,
        added: Sequence[Imatrix],
    ) -> _Target:
        path = None if output is None else Path(output)
        is_legacy = path is not None and path.suffix == ".dat"
        return cls(path, format or ("dat" if is_legacy else "gguf"), added)

    @property
    def is_what_is_collected(self) -> bool:
        return self.format == "gguf" and not self.added

    @property
    def collected(self) -> Path | None:
        """Where the new matrix goes: the file itself, unless something is made of it."""
        if self.path is None or self.is_what_is_collected:
            return self.path
        return self.path.with_name(self.path.name + ".collected.gguf")

    def require_fresh(self, *, force: bool) -> None:
        """What is collected into the file itself is checked where it is written."""
        if self.path is not None and not self.is_what_is_collected:
            _require_fresh(self.path, force=force)

    def completed(self, own: Imatrix) -> Imatrix:
        """The new matrix merged and written as it was asked for."""
        if self.is_what_is_collected:
            return own
        merged = merge_imatrices([*self.added, own]) if self.added else own
        if self.path is None or self.collected is None:
            return merged
        saved = save_imatrix(merged, self.path, format=self.format)
        self.collected.unlink()
        return saved


def _require_fresh(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise OutputError(f"{path} exists; choose another name or pass `force=True`")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent}: no such folder; create it first")


@dataclass(frozen=True)
class _Calibration:
    """What the passes of a calibration share."""

    model: Path
    text: TextForModel
    places: Sequence[Placement]
    options: dict[str, Any]
    hessian: str | os.PathLike[str] | None
    progress: Callable[[ImatrixProgress], None] | None
    cancel: threading.Event | None

    def one_pass(self, output: Path | None, *, expert_used_count: int | None = None) -> Imatrix:
        place = self.places[0]
        with place.load(
            self.model,
            load_mtp=not place.one_at_a_time,
            expert_used_count=expert_used_count,
        ) as model:
            show = self.progress
            text = self.text(
                model, None if show is None else lambda made: show(ImatrixProgress.of_text(made))
            )
            return collect_imatrix(
                model,
                text.text,
                dataset=text.dataset,
                parse_special=text.parse_special,
                output=output,
                hessian=self.hessian if expert_used_count is None else None,
                beside=self.places[1:],
                progress=self._progress(all_experts=expert_used_count is not None),
                cancel=self.cancel,
                **self.options,
            )

    def both_passes(self, output: Path | None) -> Imatrix:
        """The matrix with a second pass in which every expert is active beside it."""
        first, second = (
            None if output is None else output.with_name(f"{output.name}.{name}.tmp.gguf")
            for name in ("router", "all-experts")
        )
        n_experts = _n_experts(self.model)
        routed = self.one_pass(first)
        imatrix = with_all_experts(routed, self.one_pass(second, expert_used_count=n_experts))
        if output is None or first is None or second is None:
            return imatrix
        saved = save_imatrix(imatrix, output)
        first.unlink()
        second.unlink()
        return saved

    def _progress(self, *, all_experts: bool) -> Callable[[ImatrixProgress], None] | None:
        show = self.progress
        if show is None or not all_experts:
            return show
        return lambda state: show(replace(state, all_experts=True))


def _n_experts(path: Path) -> int:
    with open_gguf(path) as file:
        count = file.metadata.get(f"{file.facts.architecture}.expert_count", 0)
    if not isinstance(count, int) or count < 1:
        raise DataError(f"{path} has no experts; leave out `all_experts=True`")
    return count
