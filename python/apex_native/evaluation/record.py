"""What results say of the models and of the machine that computed them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from apex_native._native import core
from apex_native.evaluation.model_under_test import ModelUnderTest, cache_name
from apex_native.results import Build, Candidate, Reference, Results, same_run

__all__ = ["Fields", "candidate_row", "created_now", "find_row", "make_build", "reference_row",
           "results_of"]  # fmt: skip

Fields = Mapping[str, Any]
"""Values of a row of the results by their names there: ``kld_mean``, ``tasks``, ``speed``, ..."""


def make_build() -> Build:
    """What computes here."""
    info = core.build_info()
    return Build(
        version=info["version"],
        llama_cpp_commit=info["llama_cpp_commit"],
        compiler=info.get("compiler") or "unknown",
    )


def created_now() -> str:
    """The time as results store it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def candidate_row(model: ModelUnderTest, name: str, fields: Fields | None = None) -> Candidate:
    """A candidate's row, with what was measured."""
    return Candidate(
        name,
        type_k=cache_name(model.type_k),
        type_v=cache_name(model.type_v),
        **_source_fields(model),
        **(fields or {}),
    )


def reference_row(model: ModelUnderTest, fields: Fields | None = None) -> Reference:
    """The reference's row, with what was measured."""
    return Reference(model.name, **_source_fields(model), **(fields or {}))


def _source_fields(model: ModelUnderTest) -> dict[str, Any]:
    source = model.source
    return {
        "bytes": source.nbytes,
        "bpw": source.bpw,
        "path": None if source.path is None else str(source.path),
        "fingerprint": source.fingerprint,
    }


def find_row(known: Results | None, model: ModelUnderTest) -> Candidate | None:
    """The candidate that is this model with the same KV cache, if earlier results have it."""
    if known is None:
        return None
    wanted = candidate_row(model, model.source.name)
    return next((row for row in known.candidates if same_run(wanted, row)), None)


def results_of(
    reference: ModelUnderTest | None,
    candidates: Mapping[str, ModelUnderTest],
    measured: Mapping[str, Fields],
) -> Results:
    """Results of the models that something was measured of, by name; the reference stays in any
    case, so that they can be merged with those of a text.
    """
    return Results(
        build=make_build(),
        created=created_now(),
        candidates=tuple(
            candidate_row(model, name, measured[name])
            for name, model in candidates.items()
            if name in measured
        ),
        reference=None
        if reference is None
        else reference_row(reference, measured.get(reference.name)),
    )
