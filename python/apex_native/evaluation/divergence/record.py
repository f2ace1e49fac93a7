"""The results of a run, filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apex_native.errors import DataError
from apex_native.evaluation.divergence.bootstrap import Paired, compare_all
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.shape import ScoreShape
from apex_native.evaluation.divergence.statistics import (
    alone_fields,
    candidate_fields,
    reference_fields,
)
from apex_native.evaluation.divergence.text import Chunks
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.record import candidate_row, created_now, find_row, make_build
from apex_native.machine import cpu_name
from apex_native.results import (
    Candidate,
    Reference,
    Results,
    Settings,
    merge_results,
    same_model,
)

__all__ = [
    "candidate_record",
    "complete",
    "find_known",
    "make_settings",
    "new_results",
    "require_same_evaluation",
]


def make_settings(
    models: Sequence[ModelUnderTest], ctx: int, shape: ScoreShape, n_threads: int
) -> Settings:
    """How the models run; candidates' cache types stand with the candidates."""
    return Settings(
        ctx=ctx,
        n_batch=shape.n_ubatch,
        n_ubatch=shape.n_ubatch,
        n_threads=n_threads,
        device=_device(models),
        flash_attn=", ".join(dict.fromkeys(m.placement.flash_attn for m in models)) or "auto",
    )


def _device(models: Sequence[ModelUnderTest]) -> str:
    names: dict[str, None] = {}  # in order, each once
    for placement in (model.placement for model in models):
        here = (placement.devices or ("GPU",)) if placement.on_gpu else (f"CPU: {cpu_name()}",)
        names.update(dict.fromkeys(here))
    return ", ".join(names)


def candidate_record(
    model: ModelUnderTest,
    name: str,
    scores: TokenScores,
    reference: TokenScores | None,
    n_scored: int,
) -> Candidate:
    """A candidate's row of the results."""
    fields: dict[str, Any] = (
        alone_fields(scores, n_scored)
        if reference is None
        else candidate_fields(reference, scores, n_scored)
    )
    return candidate_row(model, name, fields)


def find_known(known: Results | None, model: ModelUnderTest) -> Candidate | None:
    """The same model with the same cache types, if its text was scored before."""
    row = find_row(known, model)
    return row if row is not None and row.ppl is not None else None


def require_same_evaluation(
    known: Results, chunks: Chunks, settings: Settings, reference: Reference | None
) -> None:
    """DataError where earlier results cannot stand beside new ones."""
    differences = []
    if known.data is not None:
        for key in ("sha256", "ctx", "n_chunks", "parse_special"):
            here, there = getattr(chunks.data, key), getattr(known.data, key)
            if here != there:
                differences.append(f"{key} {str(there)[:12]} there, {str(here)[:12]} here")
    if known.settings is not None and known.settings.device != settings.device:
        differences.append(f"device {known.settings.device} there, {settings.device} here")
    commit = make_build().llama_cpp_commit
    if known.data is not None and known.build.llama_cpp_commit != commit:
        differences.append(f"llama.cpp {known.build.llama_cpp_commit} there, {commit} here")
    theirs = known.reference
    if theirs is None or reference is None:
        if theirs is not reference:
            differences.append("only one of the two has a reference")
    elif not same_model(theirs, reference):
        differences.append(f"reference {theirs.name} there, {reference.name} here")
    if differences:
        raise DataError(
            f"the results hold another evaluation ({'; '.join(differences)}); write to another file"
        )


def complete(results: Results, known: Results | None) -> Results:
    """Results with those known before, and every pair compared anew."""
    if known is not None:
        # What was measured before stays as it was: another run rounds nothing differently, but
        # numbers that are there must not change under a reader.
        same = replace(
            results,
            reference=known.reference or results.reference,
            settings=known.settings or results.settings,
            noise_floor=known.noise_floor or results.noise_floor,
            comparisons=(),
        )
        results = merge_results([replace(known, comparisons=()), same])
    return replace(results, comparisons=compare_all(_paired(results.candidates), _own(results)))


def _paired(candidates: Sequence[Candidate]) -> list[Paired]:
    return [
        Paired(c.name, c.chunks, c.n_not_finite or 0) for c in candidates if c.chunks is not None
    ]


def _own(results: Results) -> Paired | None:
    reference = results.reference
    if reference is None or reference.chunks is None:
        return None
    return Paired(reference.name, reference.chunks, reference.n_not_finite or 0)


def new_results(
    opened: OpenReference,
    reference: TokenScores | None,
    candidates: tuple[Candidate, ...],
    chunks: Chunks,
    settings: Settings,
    tokenizer: str,
) -> Results:
    """Results of this run alone, without comparisons."""
    fields = {} if reference is None else reference_fields(reference, chunks.n_scored)
    return Results(
        build=make_build(),
        created=created_now(),
        candidates=candidates,
        reference=opened.row(fields),
        data=chunks.data,
        tokenizer=tokenizer,
        settings=settings,
    )
