"""Several evaluation files as one: candidates added later, tasks and speed beside the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from apex_native.errors import ResultsError
from apex_native.results.document import Results
from apex_native.results.identity import fold_reference, same_model, same_run, with_names_of
from apex_native.results.join import NAMES_ONLY, join_measurements
from apex_native.results.model import Candidate, MeasuredModel, Reference
from apex_native.results.settings import NoiseFloor, Settings
from apex_native.results.verdict import Comparison

__all__ = ["merge_results"]

_NO_INFLUENCE = ("n_threads",)
"""Settings that change no result."""


def merge_results(files: Sequence[Results]) -> Results:
    """All candidates of all files, in order; what several files measured of one model is joined.

    Models are the same where their hashes agree (fingerprints, or name and bytes, where a file has
    no hash). Speed tests with equal settings are taken from the last file; of two
    noise floors the higher one is kept. Raises ResultsError,
    naming the key, where reference, data, tokenizer or settings differ, where two different models
    share a name, and where one model has two different values of a metric.
    """
    if not files:
        raise ResultsError("there are no results to merge; name at least one file")
    merged = files[0]
    for other in files[1:]:
        merged = _merge_two(merged, other)
    return merged


def _merge_two(first: Results, second: Results) -> Results:
    _require_equal("data", first.data, second.data, NAMES_ONLY)
    _require_same_settings(first, second)
    if None not in (first.tokenizer, second.tokenizer) and first.tokenizer != second.tokenizer:
        raise _mixed("tokenizer", first.tokenizer, second.tokenizer)
    reference = first.reference or second.reference
    first, second = fold_reference(first, reference), fold_reference(second, reference)
    second = with_names_of(second, first)
    reference = _merge_references(first.reference, second.reference)
    candidates = _merge_candidates(first.candidates, second.candidates)
    if reference is not None and any(
        c.name == reference.name and not same_model(c, reference) for c in candidates
    ):
        raise ResultsError(
            f"'{reference.name}' is the reference in one file and another model in another; "
            "rename one of them"
        )
    return Results(
        build=first.build,
        created=max(first.created, second.created),
        candidates=candidates,
        reference=reference,
        data=first.data or second.data,
        tokenizer=first.tokenizer or second.tokenizer,
        settings=_settings_of_text(first, second),
        noise_floor=_higher_floor(first.noise_floor, second.noise_floor),
        comparisons=_merge_comparisons(first.comparisons, second.comparisons),
        n_values_not_finite=first.n_values_not_finite + second.n_values_not_finite,
    )


def _require_same_settings(first: Results, second: Results) -> None:
    """Batches, the device and the engine matter where both scored a text; the KV cache always."""
    ours, theirs = first.settings, second.settings
    if first.data is not None and second.data is not None:
        commits = [results.build.llama_cpp_commit for results in (first, second)]
        if commits[0] != commits[1]:
            raise _mixed("build.llama_cpp_commit", *commits)
        _require_equal("settings", ours, theirs, _NO_INFLUENCE)
    elif ours is not None and theirs is not None:
        for key in ("type_k", "type_v"):
            if getattr(ours, key) != getattr(theirs, key):
                raise _mixed(f"settings.{key}", getattr(ours, key), getattr(theirs, key))


def _settings_of_text(first: Results, second: Results) -> Settings | None:
    if first.data is None and second.data is not None:
        return second.settings or first.settings
    return first.settings or second.settings


def _higher_floor(first: NoiseFloor | None, second: NoiseFloor | None) -> NoiseFloor | None:
    """Of two noise floors the higher one: the careful choice for candidates of both files."""
    known = [floor for floor in (first, second) if floor is not None]
    return max(known, key=lambda floor: floor.kld_mean or 0.0, default=None)


def _require_equal(what: str, first: Any, second: Any, ignored: Iterable[str]) -> None:
    if first is None or second is None:
        return
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name not in ignored and None not in (ours, theirs) and ours != theirs:
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
    return join_measurements(first, second)


def _identity(model: MeasuredModel) -> str:
    return f"{model.name} (sha256 {(model.sha256 or model.fingerprint or 'unknown')[:12]})"


def _merge_candidates(
    first: tuple[Candidate, ...], second: tuple[Candidate, ...]
) -> tuple[Candidate, ...]:
    """The candidates of both; the second's have the first's names by now."""
    merged = list(first)
    for candidate in second:
        place = next((i for i, ours in enumerate(merged) if same_run(ours, candidate)), None)
        if place is not None:
            merged[place] = join_measurements(merged[place], candidate)
        elif any(ours.name == candidate.name for ours in merged):
            raise ResultsError(
                f"two different models have the name '{candidate.name}'; rename one of them"
            )
        else:
            merged.append(candidate)
    return tuple(merged)


def _merge_comparisons(
    first: Iterable[Comparison], second: Iterable[Comparison]
) -> tuple[Comparison, ...]:
    pairs: dict[tuple[frozenset[str], str], Comparison] = {}
    for comparison in (*first, *second):
        key = (frozenset((comparison.first, comparison.second)), comparison.metric)
        pairs.setdefault(key, comparison)
    return tuple(pairs.values())
