"""The results of a run, filled in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apex_native._native import core
from apex_native.errors import DataError
from apex_native.evaluation.divergence.bootstrap import Paired, compare_all
from apex_native.evaluation.divergence.options import EvalOptions
from apex_native.evaluation.divergence.reference import Yardstick
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.shape import ChunkShape
from apex_native.evaluation.divergence.statistics import (
    alone_fields,
    candidate_fields,
    reference_fields,
)
from apex_native.evaluation.divergence.subject import CandidateSpec
from apex_native.evaluation.divergence.text import Chunks
from apex_native.machine import cpu_name
from apex_native.results import (
    Build,
    Candidate,
    Reference,
    Results,
    Settings,
    merge_results,
    same_model,
)
from apex_native.types import GgmlType

__all__ = [
    "candidate_record",
    "complete",
    "find_known",
    "make_build",
    "make_settings",
    "new_results",
    "require_same_evaluation",
]


def make_build() -> Build:
    """What computes here."""
    info = core().build_info()
    return Build(
        version=info["version"],
        llama_cpp_commit=info["llama_cpp_commit"],
        compiler=info.get("compiler", "unknown"),
    )


def make_settings(options: EvalOptions, ctx: int, shape: ChunkShape, n_threads: int) -> Settings:
    """How the models run; candidates' cache types stand with the candidates."""
    return Settings(
        ctx=ctx,
        n_batch=shape.n_ubatch,
        n_ubatch=shape.n_ubatch,
        n_threads=n_threads,
        device=_device(options),
    )


def _device(options: EvalOptions) -> str:
    if options.on_gpu:
        return ", ".join(options.load.get("devices", ()) or ("GPU",))
    return f"CPU: {cpu_name()}"


def candidate_record(
    spec: CandidateSpec,
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
    subject = spec.subject
    return Candidate(
        name,
        bytes=subject.bytes,
        bpw=subject.bpw,
        path=str(subject.path),
        fingerprint=subject.fingerprint,
        type_k=_cache_name(spec.type_k),
        type_v=_cache_name(spec.type_v),
        **fields,
    )


def _cache_name(type: GgmlType) -> str | None:
    # Set where the cache is under test; the settings say f16.
    return None if type is GgmlType.F16 else type.name.lower()


def find_known(known: Results | None, spec: CandidateSpec) -> Candidate | None:
    """The same file with the same cache types, evaluated before."""
    if known is None:
        return None
    wanted = Candidate(
        spec.subject.name, bytes=spec.subject.bytes, fingerprint=spec.subject.fingerprint
    )
    caches = (_cache_name(spec.type_k), _cache_name(spec.type_v))
    for candidate in known.candidates:
        is_same = same_model(wanted, candidate) and candidate.ppl is not None
        if is_same and (candidate.type_k, candidate.type_v) == caches:
            return candidate
    return None


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
    theirs = known.reference
    if theirs is None or reference is None:
        if theirs is not reference:
            differences.append("only one of the two has a reference")
    elif not same_model(theirs, reference):
        differences.append(f"reference {theirs.name} there, {reference.name} here")
    if differences:
        raise DataError(
            f"the results hold another evaluation ({'; '.join(differences)}); "
            "write to another file with -o"
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
    return [Paired(c.name, c.chunks) for c in candidates if c.chunks is not None]


def _own(results: Results) -> Paired | None:
    reference = results.reference
    if reference is None or reference.chunks is None:
        return None
    return Paired(reference.name, reference.chunks)


def new_results(
    yardstick: Yardstick,
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
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        candidates=candidates,
        reference=yardstick.record(fields),
        data=chunks.data,
        tokenizer=tokenizer,
        settings=settings,
    )
