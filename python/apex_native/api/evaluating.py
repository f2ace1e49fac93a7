"""Everything an evaluation can be asked, as one call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.interrupt import cancellable
from apex_native.types import GgmlType

if TYPE_CHECKING:
    from apex_native.engine import Placement
    from apex_native.evaluation import AnyModel, EvalResults, EvaluateProgress, Text
    from apex_native.evaluation.speed import SpeedSettings
    from apex_native.evaluation.tasks import TaskSpec
    from apex_native.results import Results

__all__ = ["evaluate"]


def evaluate(
    reference: AnyModel | None,
    candidates: AnyModel | Sequence[AnyModel] = (),
    text: str | os.PathLike[str] | Text | None = None,
    *,
    ctx: int = 512,
    chunks: int | None = None,
    parse_special: bool = False,
    noise_chunks: int | None = None,
    router: bool = True,
    two_pass: bool = False,
    save_base: str | os.PathLike[str] | None = None,
    tasks: Sequence[TaskSpec] = (),
    n_tasks: int | None = 400,
    compat: bool = False,
    skip_too_long: bool = True,
    speed: Sequence[SpeedSettings] = (),
    type_k: str | GgmlType = "f16",
    type_v: str | GgmlType = "f16",
    placement: Placement | None = None,
    n_threads: int | None = None,
    gpu_memory: int | None = None,
    n_ubatch: int | None = None,
    check_memory: bool = True,
    known: Results | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[EvaluateProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> EvalResults:
    """Perplexity of models, how far they diverge from a reference, what they know, how fast.

        found = apex.evaluate("model-bf16.gguf", ["quality.gguf", "mini.gguf"], "wiki.txt")
        found.results.candidates[0].kld_mean

    All models compute a text in one pass, by llama-perplexity's definitions; tasks and speed tests
    come after it, one model after the other. At least one of text, tasks and speed is given.

    Args:
        reference: what candidates diverge from: a path, a `ModelUnderTest`, a `ModelSource`, or a
            base file of llama-perplexity (it brings its text); None: perplexity alone.
        candidates: one or several: paths; a `ModelUnderTest`, which has a KV cache, a label and if
            need be a placement of its own; a `PlannedModel`, which exists in memory only.
        text: a UTF-8 file, or a `Text`.
        ctx: tokens of a chunk; its second half is scored.
        chunks: so many of the first chunks, default all.
        parse_special: text that spells a special token is that token.
        noise_chunks: so many chunks the reference is compared with itself, 0: none; by default up
            to eight, a tenth of the work at most.
        router: count how often the routers of a MoE agree with the reference's.
        two_pass: hold the reference alone, then candidates, as many at once as take no more memory.
        save_base: write the reference as a base file for llama-perplexity.
        tasks: task files.
        n_tasks: items of each, drawn as llama-perplexity draws them; None for all.
        compat: reproduce llama-perplexity's bugs in tasks.
        skip_too_long: leave out, and count, questions longer than a model's context.
        speed: tests to time, each with the model's own KV cache types.
        type_k: type of the candidates' cached keys, of those given as path or source; the
            reference computes with F16.
        type_v: the same of cached values.
        placement: threads and GPUs of all models that have none of their own.
        n_threads: threads without a placement, default all.
        gpu_memory: bytes of one GPU at most; models are computed one after the other, many chunks
            at once, and experts that do not fit are streamed. For texts.
        n_ubatch: tokens of a text computed at once.
        check_memory: refuse what the free memory will not hold.
        known: results to add to, or their file; what they hold of the text is not computed again.
        output: a results file, written whenever a part is finished.
        checkpoint: where finished chunks are kept if the run is interrupted; the same call goes on
            from there.
        progress: called about ten times a second.
        cancel: stops the run with Cancelled once it is set.

    Raises:
        DataError: a text that is too short, a damaged task file, another tokenizer, or results of
            another evaluation in known.
        ModelError: a model cannot be loaded or memory is short.
        GgufError: a damaged model file. OutputError: a file cannot be written.
        ValueError: arguments out of range, or that do not belong together.
    """
    from apex_native.evaluation import Evaluation, Placement, TaskOptions, TextOptions, as_request

    cut = (ctx, chunks, parse_special, n_ubatch, noise_chunks, router, two_pass, check_memory)
    request = as_request(
        reference,
        _several(candidates),
        text,
        TextOptions(*cut),
        type_k=type_k,
        type_v=type_v,
        placement=_limited(placement or Placement(n_threads=n_threads), gpu_memory),
        tasks=TaskOptions(tuple(tasks), n_tasks, compat, skip_too_long),
        speed=tuple(speed),
        known=_results(known),
        **_paths(output=output, save_base=save_base, checkpoint=checkpoint),
        progress=progress,
    )
    with cancellable(cancel):
        return Evaluation(request).run()


def _limited(placement: Placement, gpu_memory: int | None) -> Placement:
    return placement if gpu_memory is None else replace(placement, gpu_memory=gpu_memory)


def _results(known: Results | str | os.PathLike[str] | None) -> Results | None:
    return Results.load(Path(known)) if isinstance(known, str | os.PathLike) else known


def _several(candidates: AnyModel | Sequence[AnyModel]) -> Sequence[AnyModel]:
    """A list of them, where one was given by itself."""
    return candidates if isinstance(candidates, list | tuple) else (candidates,)


def _paths(**given: str | os.PathLike[str] | None) -> dict[str, Path | None]:
    return {name: None if path is None else Path(path) for name, path in given.items()}
