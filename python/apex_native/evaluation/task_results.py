"""Scores of tasks as a results file of their own, to be merged with one of text metrics."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_native.evaluation.divergence.record import make_build
from apex_native.evaluation.divergence.subject import (
    CandidateSpec,
    Subject,
    describe,
    name_candidates,
)
from apex_native.results import Candidate, Reference, Results, TaskScore
from apex_native.types import GgmlType

__all__ = ["TaskModels"]


class TaskModels:
    """The models that answer: their names in results, and the results once they did."""

    def __init__(
        self,
        reference: str | os.PathLike[str] | None,
        candidates: Sequence[str | os.PathLike[str]],
        type_k: GgmlType = GgmlType.F16,
        type_v: GgmlType = GgmlType.F16,
    ) -> None:
        """Look at the files; GgufError."""
        self._reference = None if reference is None else describe(reference)
        self._specs = [CandidateSpec(describe(path), type_k, type_v) for path in candidates]
        taken = set() if self._reference is None else {self._reference.name}
        self._names = name_candidates(self._specs, taken)

    @property
    def paths(self) -> dict[str, Path]:
        """What `evaluate_tasks` takes: the reference first."""
        paths = {} if self._reference is None else {self._reference.name: self._reference.path}
        named = zip(self._names, self._specs, strict=True)
        return {**paths, **{name: spec.subject.path for name, spec in named}}

    def results(self, scores: Mapping[str, tuple[TaskScore, ...]]) -> Results:
        """Results of the models that have scores."""
        reference = self._reference
        return Results(
            build=make_build(),
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            candidates=tuple(
                Candidate(
                    name,
                    type_k=_cache_name(spec.type_k),
                    type_v=_cache_name(spec.type_v),
                    tasks=scores[name],
                    **_file_fields(spec.subject),
                )
                for name, spec in zip(self._names, self._specs, strict=True)
                if name in scores
            ),
            reference=None
            if reference is None
            else Reference(
                reference.name, tasks=scores.get(reference.name, ()), **_file_fields(reference)
            ),
        )


def _file_fields(subject: Subject) -> dict[str, Any]:
    return {
        "bytes": subject.bytes,
        "bpw": subject.bpw,
        "path": str(subject.path),
        "fingerprint": subject.fingerprint,
    }


def _cache_name(type: GgmlType) -> str | None:
    return None if type is GgmlType.F16 else type.name.lower()
