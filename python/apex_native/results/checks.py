"""What must hold in every results file, beyond the types of its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from apex_native.errors import ResultsError
from apex_native.results.model import Candidate, ChunkSums, MeasuredModel, Reference
from apex_native.results.tasks import TaskScore, unpack_items
from apex_native.results.verdict import Comparison

__all__ = ["check_consistent"]

_ROUNDING = 1e-9
"""A Wilson interval of no or of all items ends at 0 or 1 only up to rounding."""


def check_consistent(
    reference: Reference | None,
    candidates: Sequence[Candidate],
    comparisons: Sequence[Comparison],
    *,
    has_text: bool,
    source: str,
) -> None:
    """Raise ResultsError, with the place, for the first value that cannot be.

    has_text: the file says which text it is about.
    """
    names = Counter(candidate.name for candidate in candidates)
    known = {*names, *(() if reference is None else (reference.name,))}
    problems = (
        *_name_problems(names),
        *(() if reference is None else _model_problems("reference", reference)),
        *_all_candidate_problems(
            candidates, has_reference=reference is not None, has_text=has_text
        ),
        *_comparison_problems(known, comparisons),
    )
    for place, problem in problems:
        raise ResultsError(f"{source}.{place}: {problem}")


def _name_problems(names: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for name, count in names.items():
        if count > 1:
            yield "candidates", f"{count} have the name '{name}'; give each a name of its own"


def _comparison_problems(
    names: set[str], comparisons: Sequence[Comparison]
) -> Iterator[tuple[str, str]]:
    for i, comparison in enumerate(comparisons):
        for name in (comparison.first, comparison.second):
            if name not in names:
                yield f"comparisons[{i}]", f"names '{name}', which is no candidate"


def _all_candidate_problems(
    candidates: Sequence[Candidate], *, has_reference: bool, has_text: bool
) -> Iterator[tuple[str, str]]:
    for i, candidate in enumerate(candidates):
        place = f"candidates[{i}]"
        yield from _model_problems(place, candidate)
        yield from _candidate_problems(place, candidate)
        if candidate.kld_mean is not None and not has_reference:
            yield place, "has a kld_mean, but there is no reference that it could be against"
        if candidate.ppl is not None and not has_text:
            yield place, "has a ppl, but no data say of which text"


def _model_problems(place: str, model: MeasuredModel) -> Iterator[tuple[str, str]]:
    if not model.name:
        yield f"{place}.name", "must not be empty"
    values = {
        "bytes": model.bytes,
        "bpw": model.bpw,
        "ppl": model.ppl,
        "ppl_se": model.ppl_se,
        "n_positions": model.n_positions,
        "n_not_finite": model.n_not_finite,
    }
    for key, value in values.items():
        yield from _negative_problems(f"{place}.{key}", value)
    if model.chunks is not None:
        yield from _chunk_problems(f"{place}.chunks", model.chunks)
    tasks = Counter(score.task for score in model.tasks)
    for i, score in enumerate(model.tasks):
        yield from _task_problems(f"{place}.tasks[{i}]", score)
        if tasks[score.task] > 1:
            yield f"{place}.tasks[{i}]", f"is a second score for {score.task}"


def _candidate_problems(place: str, candidate: Candidate) -> Iterator[tuple[str, str]]:
    yield from _negative_problems(f"{place}.kld_se", candidate.kld_se)
    yield from _share_problems(f"{place}.same_top", candidate.same_top)
    for i, layer in enumerate(candidate.router_agreement):
        for key in ("same_set", "same_top1"):
            yield from _share_problems(f"{place}.router_agreement[{i}].{key}", getattr(layer, key))


def _negative_problems(place: str, value: float | None) -> Iterator[tuple[str, str]]:
    if value is not None and value < 0:
        yield place, f"must not be negative, found {value}"


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
