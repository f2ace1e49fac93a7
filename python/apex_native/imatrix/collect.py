"""Collecting an importance matrix: text through a loaded model, chunk by chunk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apex_native.argument_kinds import require_kind
from apex_native.atomic_write import free_name
from apex_native.engine import GPU_UBATCH, UBATCH, Model, Placement, Tokens
from apex_native.errors import DataError, OutputError
from apex_native.gpu_layers import free_gpu_bytes
from apex_native.imatrix.checkpoint import State, checkpoint_path
from apex_native.imatrix.collection import Collection, require_fresh
from apex_native.imatrix.collection_plan import CollectionPlan, Scope
from apex_native.imatrix.entries import Imatrix
from apex_native.imatrix.files import load_imatrix, save_imatrix, sealed
from apex_native.imatrix.from_state import imatrix_from_state
from apex_native.imatrix.hessian import Hessian
from apex_native.imatrix.hessian_file import require_room, save_hessian
from apex_native.imatrix.output_groups import with_output_groups
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.interrupt import cancellable
from apex_native.requirements import Work, require_traits

__all__ = [
    "DEFAULT_BATCH",
    "DEFAULT_CONTEXT",
    "DEFAULT_UBATCH",
    "collect_imatrix",
    "plan_collection",
]

DEFAULT_CONTEXT = 512
DEFAULT_BATCH = 2048
DEFAULT_UBATCH = UBATCH
"""llama-imatrix's own settings (common/common.h); batches of this shape give its sums."""

ROOMY_GPU_BYTES = 32 << 30
"""Free beside the model: the logits of 8,192 tokens of a vocabulary of 250,000 take 8 GB of it."""


def collect_imatrix(
    model: Model,
    text: str | Tokens | Sequence[int],
    *,
    ctx: int = DEFAULT_CONTEXT,
    batch: int = DEFAULT_BATCH,
    ubatch: int | None = None,
    skip_chunks: int = 0,
    max_chunks: int | None = None,
    min_expert_tokens: int = 0,
    parse_special: bool = False,
    scope: Scope = "everything",
    dataset: str = "",
    output: str | os.PathLike[str] | None = None,
    hessian: str | os.PathLike[str] | None = None,
    beside: Sequence[Placement] = (),
    checkpoint_every: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[ImatrixProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Imatrix:
    """Sums of squared inputs of every weight, per expert, over chunks of ctx tokens.

    text is tokenized as llama-imatrix does (parse_special: text that spells a special token becomes
    it) or comes as tokens. The rest that fills no chunk is dropped; skip_chunks leaves out the
    first. min_expert_tokens: end as soon as every expert has seen so many tokens; max_chunks and
    the text's length are limits all the same. scope "everything" includes the output (tied or not)
    and, where the model was loaded with it, the MTP block; "upstream" is what llama-imatrix
    collects. batch and ubatch (tokens; default 512 at once, on a GPU 2048) only matter for speed
    and, in the last digits, through the order of the model's own arithmetic; a batch is cut
    to whole chunks where it holds one. A `StreamPlan` of the model decides both.

    hessian: write the second moments of all inputs there too (`HessianFile` reads them); the
    importance matrix is their diagonal.

    beside: where copies of the model are loaded, one after the other while the first computes, that
    take groups of chunks too: other GPUs. Their number changes no bit; with hessian none is loaded,
    for second moments are added up on the host, which one model keeps busy.

    output: write the matrix there, with a checkpoint beside it while it runs, every
    checkpoint_every chunks (default: about twice a minute); resume goes on from it, or takes a
    finished output of these very settings, and gives the same bytes as an uninterrupted run; force
    starts again and overwrites. The sums do not depend on
    the number of threads.

    Raises DataError for a text of under one chunk, ValueError for settings out of range and tokens
    outside the vocabulary, ModelError naming the weight whose input is not finite, OutputError,
    Cancelled (resumable where output is given).
    """
    path = None if output is None else Path(output)
    tokens = _cut(model, text, parse_special, ctx, skip_chunks, max_chunks)
    plan = CollectionPlan(
        tokens=tokens,
        ctx=ctx,
        **_batches(model, len(tokens) // ctx, ctx, batch, ubatch),
        scope=scope,
        min_expert_tokens=min_expert_tokens,
        output=path,
        checkpoint_every=checkpoint_every,
        moments=hessian is not None,
    )
    settings = plan.settings(model)
    finished = _finished_before(path, hessian, settings, resume=resume, force=force)
    if finished is not None:
        return finished
    with Collection(model, plan, settings, beside) as collection:
        _require_room(collection, hessian)
        if resume:
            collection.resume()
        state = collection.run(progress, cancel)
        if collection.mtp_reason:
            settings["mtp_reason"] = collection.mtp_reason
    imatrix = imatrix_from_state(
        state, chunk_size=ctx, datasets=(dataset,) if dataset else (), settings=settings
    )
    _save_moments(model, plan, state, settings, hessian, cancel)
    return _kept(imatrix, path, force=force)


def _require_model(model: Model) -> None:
    require_kind(
        *("model", model, Model),
        "load it with apex.load_model, or let apex.calibrate take its path",
    )
    require_traits(model, Work.CALIBRATION)


def plan_collection(
    model: Model,
    text: str | Tokens | Sequence[int],
    *,
    ctx: int = DEFAULT_CONTEXT,
    batch: int | None = None,
    max_chunks: int | None = None,
    parse_special: bool = False,
) -> CollectionPlan:
    """What `collect_imatrix` would compute of a text, for `LayeredHessian`. Raises DataError.

    batch: tokens, default 2,048. Four times as many are computed at once where a GPU has room for
    them and no batch is given: sums of products are read and written once for each.
    """
    ubatch = _moments_ubatch(model)
    batch = max(DEFAULT_BATCH, ubatch) if batch is None else batch
    return CollectionPlan(
        tokens=_cut(model, text, parse_special, ctx, 0, max_chunks),
        ctx=ctx,
        batch=_whole_chunks(batch, ctx, ubatch),
        ubatch=ubatch,
        scope="everything",
        min_expert_tokens=0,
        output=None,
        checkpoint_every=None,
    )


def _cut(
    model: Model,
    text: str | Tokens | Sequence[int],
    parse_special: bool,
    ctx: int,
    skip_chunks: int,
    max_chunks: int | None,
) -> Tokens:
    """The tokens of whole chunks."""
    _require_model(model)
    tokens = _tokens(model, text, parse_special)
    n_chunks = _count_chunks(len(tokens), ctx, skip_chunks, max_chunks)
    return tokens[skip_chunks * ctx :][: n_chunks * ctx]


def _finished_before(
    path: Path | None,
    hessian: str | os.PathLike[str] | None,
    settings: Mapping[str, object],
    *,
    resume: bool,
    force: bool,
) -> Imatrix | None:
    """What an earlier run left whole, to be resumed; OutputError where it is in the way."""
    if path is not None:
        if resume and path.exists() and (hessian is None or Path(hessian).exists()):
            return _finished(path, settings)
        require_fresh(path, resume=resume, force=force)
    if hessian is not None and Path(hessian).exists() and not (force or resume):
        raise OutputError(f"{hessian} exists; choose another name or pass `force=True`")
    return None


def _require_room(collection: Collection, hessian: str | os.PathLike[str] | None) -> None:
    if hessian is not None:
        require_room(collection.known_inputs(), Path(hessian))


def _save_moments(
    model: Model,
    plan: CollectionPlan,
    state: State,
    settings: Mapping[str, object],
    hessian: str | os.PathLike[str] | None,
    cancel: threading.Event | None,
) -> None:
    if state.moments is None or hessian is None:
        return
    n_tokens = state.chunks_done * plan.ctx
    found = Hessian.from_raw(state.moments, settings, n_tokens)
    done = replace(plan, tokens=plan.tokens[:n_tokens])
    with cancellable(cancel):
        found = with_output_groups(model, done, found)
    save_hessian(found, hessian)


def _batches(
    model: Model, n_chunks: int, ctx: int, batch: int, ubatch: int | None
) -> dict[str, Any]:
    """Tokens handed over, and computed, at once."""
    if model.stream is None:
        ubatch = _ubatch(model) if ubatch is None else ubatch
        return {"batch": _whole_chunks(batch, ctx, ubatch), "ubatch": ubatch}
    together = ctx * model.stream.sequences_for(n_chunks)
    return {"batch": together, "ubatch": together}


def _whole_chunks(batch: int, ctx: int, ubatch: int) -> int:
    """As much of batch as holds whole chunks, of which each has a place in every ubatch."""
    return batch if batch <= ctx else ctx * max(1, min(batch // ctx, ubatch))


def _ubatch(model: Model) -> int:
    return GPU_UBATCH if model.on_gpu else DEFAULT_UBATCH


def _moments_ubatch(model: Model) -> int:
    is_roomy = model.on_gpu and min(free_gpu_bytes(), default=0) >= ROOMY_GPU_BYTES
    return 4 * GPU_UBATCH if is_roomy else _ubatch(model)


def _tokens(model: Model, text: str | Tokens | Sequence[int], parse_special: bool) -> Tokens:
    if isinstance(text, str):
        return model.tokenize(text, add_special=True, parse_special=parse_special)
    return np.ascontiguousarray(text, dtype=np.int32)


def _kept(imatrix: Imatrix, path: Path | None, *, force: bool) -> Imatrix:
    """The matrix in its file; where another run has made that meanwhile, in one beside it."""
    if path is None:
        return sealed(imatrix)
    is_taken = path.exists() and not force
    target = free_name(path) if is_taken else path
    saved = save_imatrix(imatrix, target)
    checkpoint_path(path).unlink(missing_ok=True)
    if is_taken and target.read_bytes() != path.read_bytes():
        raise OutputError(
            f"{path} was written by another run meanwhile; what this one collected is in {target}"
        )
    if is_taken:  # the same bytes: nobody needs them twice
        target.unlink()
        return load_imatrix(path)
    return saved


def _finished(path: Path, settings: Mapping[str, object]) -> Imatrix:
    """The matrix an earlier run finished; OutputError where it had other settings."""
    imatrix = load_imatrix(path)
    for key, value in settings.items():
        if imatrix.settings.get(key) != value:
            raise OutputError(
                f"{path} exists and was collected with {key} {imatrix.settings.get(key)!r}, now it "
                f"is {value!r}; choose another name or pass `force=True`"
            )
    return imatrix


def _count_chunks(n_tokens: int, ctx: int, skip_chunks: int, max_chunks: int | None) -> int:
    if ctx < 2 or skip_chunks < 0 or (max_chunks is not None and max_chunks < 1):
        raise ValueError(
            f"expected ctx >= 2, skip_chunks >= 0 and max_chunks >= 1, found {ctx}, "
            f"{skip_chunks}, {max_chunks}"
        )
    n_chunks = n_tokens // ctx - skip_chunks
    if n_chunks < 1:
        raise DataError(
            f"the text has {n_tokens} tokens, expected at least {(skip_chunks + 1) * ctx} for one "
            f"chunk of {ctx}" + (f" after {skip_chunks}" if skip_chunks else "") + "; give more "
            "text, or a smaller context"
        )
    return n_chunks if max_chunks is None else min(n_chunks, max_chunks)
