"""Several evaluation files as one: candidates added later, tasks and speed beside the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from apex_native.errors import ResultsError
from apex_native.results.document import Results
from apex_native.results.model import Candidate, Reference, SpeedTest
from apex_native.results.settings import Settings
from apex_native.results.tasks import McNemar, TaskScore
from apex_native.results.verdict import Comparison

__all__ = ["merge_results", "same_model"]

_Model = TypeVar("_Model", Candidate, Reference)

_NAMES_ONLY = ("name", "path")
"""Keys that may differ: they say where a file lay, not what was in it."""

_NO_INFLUENCE = ("n_threads",)
"""Settings that change no result."""

_LISTS = ("tasks", "speed")


def merge_results(files: Sequence[Results]) -> Results:
    """All candidates of all files, in order; what several files measured of one model is joined.

    Models are the same where their hashes agree (fingerprints, or name and bytes, where a file has
    no hash). Speed tests with equal settings are taken from the last file. Raises ResultsError,
    naming the key, where reference, data, tokenizer or settings differ, where two different models
    share a name, and where one model has two different values of a metric.
    """
    if not files:
        raise ResultsError("there are no results to merge; name at least one file")
    merged = files[0]
    for other in files[1:]:
        merged = _merge_two(merged, other)
    return merged


def same_model(first: Candidate | Reference, second: Candidate | Reference) -> bool:
    """True if both are the same file: by hash, else by fingerprint, else by name and bytes."""
    for key in ("sha256", "fingerprint"):
        ours, theirs = getattr(first, key), getattr(second, key)
        if ours is not None and theirs is not None:
            return bool(ours == theirs)
    return (first.name, first.bytes) == (second.name, second.bytes)


def _merge_two(first: Results, second: Results) -> Results:
    _require_equal("data", first.data, second.data, _NAMES_ONLY)
    _require_same_settings(first, second)
    if None not in (first.tokenizer, second.tokenizer) and first.tokenizer != second.tokenizer:
        raise _mixed("tokenizer", first.tokenizer, second.tokenizer)
    reference = _merge_references(first.reference, second.reference)
    _require_equal("noise_floor", first.noise_floor, second.noise_floor, ())
    candidates, renamed = _merge_candidates(first.candidates, second.candidates)
    if reference is not None and any(c.name == reference.name for c in candidates):
        raise ResultsError(
            f"'{reference.name}' is the reference in one file and a candidate in another; "
            "evaluate it in one place"
        )
    return Results(
        build=first.build,
        created=max(first.created, second.created),
        candidates=candidates,
        reference=reference,
        data=first.data or second.data,
        tokenizer=first.tokenizer or second.tokenizer,
        settings=_settings_of_text(first, second),
        noise_floor=first.noise_floor or second.noise_floor,
        comparisons=_merge_comparisons(
            first.comparisons, (_with_names(c, renamed) for c in second.comparisons)
        ),
        n_values_not_finite=first.n_values_not_finite + second.n_values_not_finite,
    )


def _require_same_settings(first: Results, second: Results) -> None:
    """Batches and the device matter where both scored a text; the KV cache always does."""
    ours, theirs = first.settings, second.settings
    if first.data is not None and second.data is not None:
        _require_equal("settings", ours, theirs, _NO_INFLUENCE)
    elif ours is not None and theirs is not None:
        for key in ("type_k", "type_v"):
            if getattr(ours, key) != getattr(theirs, key):
                raise _mixed(f"settings.{key}", getattr(ours, key), getattr(theirs, key))


def _settings_of_text(first: Results, second: Results) -> Settings | None:
    if first.data is None and second.data is not None:
        return second.settings or first.settings
    return first.settings or second.settings


def _require_equal(what: str, first: Any, second: Any, ignored: Iterable[str]) -> None:
    if first is None or second is None:
        return
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name not in ignored and ours != theirs:
            raise _mixed(f"{what}.{field.name}", ours, theirs)


def _mixed(key: str, ours: object, theirs: object) -> ResultsError:
    return ResultsError(
        f"results of different evaluations cannot be merged: {key} is {ours!s:.60} in one file "
        f"and {theirs!s:.60} in another; report them apart, or evaluate again with one setting"
    )


def _merge_references(first: Reference | None, second: Reference | None) -> Reference | None:
    if first is None or second is None:
        return first or second
    if not same_model(first, second):
        raise _mixed("reference", _identity(first), _identity(second))
    return _merge_models(first, dataclasses.replace(second, name=first.name))


def _identity(model: Candidate | Reference) -> str:
    return f"{model.name} (sha256 {(model.sha256 or model.fingerprint or 'unknown')[:12]})"


def _merge_candidates(
    first: tuple[Candidate, ...], second: tuple[Candidate, ...]
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """The candidates of both, and the second's names that became others."""
    merged = list(first)
    renamed: dict[str, str] = {}
    for candidate in second:
        place = next((i for i, ours in enumerate(merged) if _same_run(ours, candidate)), None)
        if place is not None:
            ours = merged[place]
            renamed[candidate.name] = ours.name
            merged[place] = _merge_models(ours, dataclasses.replace(candidate, name=ours.name))
        elif any(ours.name == candidate.name for ours in merged):
            raise ResultsError(
                f"two different models have the name '{candidate.name}'; rename one of them"
            )
        else:
            merged.append(candidate)
    return tuple(merged), renamed


def _same_run(first: Candidate, second: Candidate) -> bool:
    cache = (first.type_k, first.type_v) == (second.type_k, second.type_v)
    return cache and same_model(first, second)


def _merge_models(first: _Model, second: _Model) -> _Model:
    values: dict[str, Any] = {
        "tasks": _merge_tasks(first, second),
        "speed": _merge_speed(first.speed, second.speed),
    }
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name in _LISTS:
            continue
        missing = ours is None or ours == ()
        if not missing and field.name not in _NAMES_ONLY and theirs not in (None, (), ours):
            raise _measured_twice(first.name, field.name, ours, theirs)
        values[field.name] = theirs if missing else ours
    return dataclasses.replace(first, **values)


def _measured_twice(name: str, key: str, ours: object, theirs: object) -> ResultsError:
    return ResultsError(
        f"'{name}' has two values of {key}: {ours!s:.60} in one file and {theirs!s:.60} in "
        "another; leave one of the files out"
    )


def _merge_tasks(first: _Model, second: _Model) -> tuple[TaskScore, ...]:
    scores = {score.task: score for score in first.tasks}
    for score in second.tasks:
        ours = scores.get(score.task)
        scores[score.task] = score if ours is None else _same_score(first.name, ours, score)
    return tuple(scores.values())


def _same_score(name: str, ours: TaskScore, theirs: TaskScore) -> TaskScore:
    for field in dataclasses.fields(ours):
        if field.name == "comparisons":
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != other:
            raise _measured_twice(name, f"{ours.task} ({field.name})", mine, other)
    tests: dict[str, McNemar] = {test.other: test for test in theirs.comparisons}
    tests.update((test.other, test) for test in ours.comparisons)
    return dataclasses.replace(ours, comparisons=tuple(tests.values()))


def _merge_speed(
    first: tuple[SpeedTest, ...], second: tuple[SpeedTest, ...]
) -> tuple[SpeedTest, ...]:
    tests = {_speed_settings(test): test for test in (*first, *second)}
    return tuple(tests.values())


def _speed_settings(test: SpeedTest) -> tuple[object, ...]:
    return dataclasses.astuple(dataclasses.replace(test, median=0.0, samples=()))


def _merge_comparisons(
    first: Iterable[Comparison], second: Iterable[Comparison]
) -> tuple[Comparison, ...]:
    pairs: dict[tuple[frozenset[str], str], Comparison] = {}
    for comparison in (*first, *second):
        key = (frozenset((comparison.first, comparison.second)), comparison.metric)
        pairs.setdefault(key, comparison)
    return tuple(pairs.values())


def _with_names(comparison: Comparison, renamed: dict[str, str]) -> Comparison:
    return dataclasses.replace(
        comparison,
        first=renamed.get(comparison.first, comparison.first),
        second=renamed.get(comparison.second, comparison.second),
    )
