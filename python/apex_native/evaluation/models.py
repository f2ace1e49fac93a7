"""The call behind `apex_native.evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apex_native.evaluation.divergence.options import NOISE_CHUNKS, EvalOptions, cache_type
from apex_native.evaluation.divergence.run import EvalJob, EvalResults, run_job
from apex_native.evaluation.divergence.scores import EvaluateProgress
from apex_native.evaluation.divergence.text import Text, read_text
from apex_native.results import Results
from apex_native.types import GgmlType

__all__ = ["EvalResults", "EvaluateProgress", "Text", "evaluate_models"]

AnyPath = str | os.PathLike[str]


def evaluate_models(
    reference: AnyPath | None,
    candidates: Sequence[AnyPath],
    text: AnyPath | Text | None = None,
    *,
    ctx: int = 512,
    chunks: int | None = None,
    parse_special: bool = False,
    type_k: str | GgmlType = "f16",
    type_v: str | GgmlType = "f16",
    noise_chunks: int = NOISE_CHUNKS,
    router: bool = True,
    two_pass: bool = False,
    n_ubatch: int | None = None,
    known: Results | None = None,
    save_base: AnyPath | None = None,
    checkpoint: AnyPath | None = None,
    check_memory: bool = True,
    progress: Callable[[EvaluateProgress], None] | None = None,
    **load: Any,
) -> EvalResults:
    """Perplexity of models, and how far candidates diverge from a reference, in one pass.

    reference: a model, a base file of llama-perplexity, or None for perplexity only. text: a UTF-8
    file, or a `Text`; a base file brings its own tokens. The text is cut into chunks of ctx tokens
    (the first ``chunks`` of them), the second half of each is scored; all by llama-perplexity's
    definitions. type_k, type_v: types of the candidates' KV cache; the reference keeps f16.
    noise_chunks: so many chunks the reference is compared with itself, 0: none. router: count how
    often the routers of a MoE agree. two_pass: never hold two models in memory at once.
    known: results to add to; candidates that are there are not computed again. save_base: write the
    reference as a base file. checkpoint: where finished chunks are kept if the run is interrupted;
    the same call goes on from there. load: what `load_model` takes (n_threads, n_gpu_layers, ...).

    Raises DataError for a text that is too short, another tokenizer or another evaluation's
    results, ModelError where a model cannot be loaded or memory is short, GgufError for a damaged
    file, OutputError, and ValueError for arguments out of range.
    """
    _require_sensible(reference, candidates, save_base, noise_chunks)
    options = EvalOptions(
        ctx=ctx,
        chunks=chunks,
        parse_special=parse_special,
        type_k=cache_type(type_k),
        type_v=cache_type(type_v),
        n_ubatch=n_ubatch,
        noise_chunks=noise_chunks,
        router=router,
        two_pass=two_pass,
        check_memory=check_memory,
        load=load,
    )
    return run_job(
        EvalJob(
            reference=_path(reference),
            candidates=tuple(Path(path) for path in candidates),
            text=text if text is None or isinstance(text, Text) else read_text(text),
            options=options,
            known=known,
            save_base=_path(save_base),
            checkpoint=_path(checkpoint),
            progress=progress,
        )
    )


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _require_sensible(
    reference: AnyPath | None,
    candidates: Sequence[AnyPath],
    save_base: AnyPath | None,
    noise_chunks: int,
) -> None:
    if reference is None and not candidates:
        raise ValueError("an evaluation needs at least one model")
    if save_base is not None and reference is None:
        raise ValueError("save_base needs a reference")
    if noise_chunks < 0:
        raise ValueError(f"noise_chunks: expected 0 or more, found {noise_chunks}")
