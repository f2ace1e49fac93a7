"""Which models of two files are the same, and one name for each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from apex_native.results.document import Results
from apex_native.results.join import join_measurements
from apex_native.results.model import Candidate, MeasuredModel, Reference

__all__ = ["fold_reference", "same_model", "same_run", "with_names_of"]

_Model = TypeVar("_Model", Candidate, Reference)


def same_model(first: MeasuredModel, second: MeasuredModel) -> bool:
    """True if both are the same file: by hash, else by fingerprint, else by name and bytes."""
    for key in ("sha256", "fingerprint"):
        ours, theirs = getattr(first, key), getattr(second, key)
        if ours is not None and theirs is not None:
            return bool(ours == theirs)
    return (first.name, first.bytes) == (second.name, second.bytes)


def same_run(first: Candidate, second: Candidate) -> bool:
    """True if both are the same file with the same KV cache."""
    cache = (first.type_k, first.type_v) == (second.type_k, second.type_v)
    return cache and same_model(first, second)


def fold_reference(results: Results, reference: Reference | None) -> Results:
    """The file with what it lists of the reference as a candidate given to its reference.

    Tasks and speed know no reference, so their files list all models as candidates. The reference
    measured against itself stays a candidate: that was done on purpose.
    """
    if reference is None:
        return results
    folded = [c for c in results.candidates if _is_listed(c, reference)]
    for candidate in folded:
        values = {f.name: getattr(candidate, f.name) for f in dataclasses.fields(Reference)}
        same = Reference(**{**values, "name": reference.name})
        own = results.reference
        results = dataclasses.replace(
            results, reference=same if own is None else join_measurements(own, same)
        )
    kept = tuple(c for c in results.candidates if c not in folded)
    results = dataclasses.replace(results, candidates=kept)
    return _renamed(results, {candidate.name: reference.name for candidate in folded})


def _is_listed(candidate: Candidate, reference: Reference) -> bool:
    own_cache = candidate.type_k is not None or candidate.type_v is not None
    against_itself = candidate.kld_mean is not None or own_cache
    return not against_itself and same_model(candidate, reference)


def with_names_of(results: Results, other: Results) -> Results:
    """The file with the other's names for the models that both have."""
    names = {}
    own, theirs = results.reference, other.reference
    if own is not None and theirs is not None and same_model(own, theirs):
        names[own.name] = theirs.name
    for candidate in results.candidates:
        same = (ours for ours in other.candidates if same_run(ours, candidate))
        names[candidate.name] = next(same, candidate).name
    return _renamed(results, names)


def _renamed(results: Results, names: Mapping[str, str]) -> Results:
    """The file with other names, wherever they stand."""
    reference = results.reference
    return dataclasses.replace(
        results,
        reference=None if reference is None else _renamed_model(reference, names),
        candidates=tuple(_renamed_model(candidate, names) for candidate in results.candidates),
        comparisons=tuple(
            dataclasses.replace(
                c, first=names.get(c.first, c.first), second=names.get(c.second, c.second)
            )
            for c in results.comparisons
        ),
    )


def _renamed_model(model: _Model, names: Mapping[str, str]) -> _Model:
    tasks = tuple(
        dataclasses.replace(
            score,
            comparisons=tuple(
                dataclasses.replace(test, other=names.get(test.other, test.other))
                for test in score.comparisons
            ),
        )
        for score in model.tasks
    )
    return dataclasses.replace(model, name=names.get(model.name, model.name), tasks=tasks)
