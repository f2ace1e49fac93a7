"""What must hold in every results file, beyond the types of its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from apex_native.errors import ResultsError
from apex_native.results.tasks import TaskScore, unpack_items

if TYPE_CHECKING:
    from apex_native.results.document import Results
    from apex_native.results.model import Candidate, ChunkSums, Reference

__all__ = ["check_consistent"]

_SHARES = ("same_top",)
_ROUNDING = 1e-9
"""A Wilson interval of no or of all items ends at 0 or 1 only up to rounding."""

_NOT_NEGATIVE = ("bytes", "bpw", "ppl", "ppl_se", "kld_se", "n_positions", "n_not_finite")


def check_consistent(results: Results, source: str) -> None:
    """Raise ResultsError, with the place, for the first value that cannot be."""
    for place, problem in _problems(results):
        raise ResultsError(f"{source}.{place}: {problem}")


def _problems(results: Results) -> Iterator[tuple[str, str]]:
    names = Counter(candidate.name for candidate in results.candidates)
    for name, count in names.items():
        if count > 1:
            yield "candidates", f"{count} have the name '{name}'; give each a name of its own"
    models = [(f"candidates[{i}]", c) for i, c in enumerate(results.candidates)]
    if results.reference is not None:
        yield from _model_problems("reference", results.reference)
        names[results.reference.name] += 1
    for place, candidate in models:
        yield from _model_problems(place, candidate)
        if candidate.kld_mean is not None and results.reference is None:
            yield place, "has a kld_mean, but there is no reference that it could be against"
        if candidate.ppl is not None and results.data is None:
            yield place, "has a ppl, but no data say of which text"
    for i, comparison in enumerate(results.comparisons):
        for name in (comparison.first, comparison.second):
            if name not in names:
                yield f"comparisons[{i}]", f"names '{name}', which is no candidate"


def _model_problems(place: str, model: Candidate | Reference) -> Iterator[tuple[str, str]]:
    if not model.name:
        yield f"{place}.name", "must not be empty"
    for key in _NOT_NEGATIVE:
        value = getattr(model, key, None)
        if value is not None and value < 0:
            yield f"{place}.{key}", f"must not be negative, found {value}"
    for key in _SHARES:
        yield from _share_problems(f"{place}.{key}", getattr(model, key, None))
    if model.chunks is not None:
        yield from _chunk_problems(f"{place}.chunks", model.chunks)
    for i, layer in enumerate(getattr(model, "router_agreement", ())):
        for key in ("same_set", "same_top1"):
            yield from _share_problems(f"{place}.router_agreement[{i}].{key}", getattr(layer, key))
    tasks = Counter(score.task for score in model.tasks)
    for i, score in enumerate(model.tasks):
        yield from _task_problems(f"{place}.tasks[{i}]", score)
        if tasks[score.task] > 1:
            yield f"{place}.tasks[{i}]", f"is a second score for {score.task}"


def _share_problems(place: str, value: float | None) -> Iterator[tuple[str, str]]:
    if value is not None and not 0 <= value <= 1:
        yield place, f"must be a fraction between 0 and 1, found {value}"


def _chunk_problems(place: str, chunks: ChunkSums) -> Iterator[tuple[str, str]]:
    n_chunks = len(chunks.n_positions)
    for key in ("nll", "kld"):
        found = len(getattr(chunks, key))
        if found not in (0, n_chunks):
            yield f"{place}.{key}", f"must have {n_chunks} entries like n_positions, found {found}"


def _task_problems(place: str, score: TaskScore) -> Iterator[tuple[str, str]]:
    if score.n < 1:
        yield f"{place}.n", f"must be at least one item, found {score.n}"
    for key in ("score", "low", "high", "chance"):
        yield from _share_problems(f"{place}.{key}", getattr(score, key))
    if not score.low - _ROUNDING <= score.score <= score.high + _ROUNDING:
        yield place, f"score {score.score} is outside its interval {score.low} to {score.high}"
    if score.items is not None:
        try:
            unpack_items(score.items, score.n)
        except ResultsError as error:
            yield place, str(error)
