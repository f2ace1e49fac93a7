"""From grids to candidates: each combination planned, named, and checked before anything runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apex_native.api import make_plan
from apex_native.errors import DataError, ImatrixError, PlanError
from apex_native.evaluation import ModelFile
from apex_native.gguf import GgufFile
from apex_native.imatrix import Imatrix, load_imatrix
from apex_native.plan import Plan
from apex_native.sweeps.definition import NO_MATRIX, CandidateGrid, SweepDefinition
from apex_native.sweeps.jobs import Candidate, SharedFile
from apex_native.sweeps.local_files import shared_model

__all__ = ["CandidateSet", "Choice", "choices_of", "make_candidates"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One combination of a grid, and what it is called."""

    name: str
    grid: CandidateGrid
    value: str
    matrix: str
    prior: str
    cache: tuple[str, str]


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """Candidates that can be made, their sizes in bytes, and reasons why others cannot."""

    candidates: tuple[Candidate, ...]
    nbytes: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)


def choices_of(definition: SweepDefinition) -> tuple[Choice, ...]:
    """All combinations in the order they are written; DataError where two have one name."""
    found: dict[str, Choice] = {}
    for grid in definition.candidates:
        for choice in _choices(grid):
            if choice.name in found:
                raise DataError(
                    f"two candidates are named '{choice.name}'; give one of their tables a `name`"
                )
            found[choice.name] = choice
    return tuple(found.values())


def _choices(grid: CandidateGrid) -> Iterator[Choice]:
    axes = (grid.values, grid.matrices, grid.priors, grid.caches)
    for value, matrix, prior, cache in itertools.product(*axes):
        if matrix == NO_MATRIX and prior != grid.priors[0]:
            continue  # a prior is of a matrix
        yield Choice(_name(grid, value, matrix, prior, cache), grid, value, matrix, prior, cache)


def _name(grid: CandidateGrid, value: str, matrix: str, prior: str, cache: tuple[str, str]) -> str:
    """What differs inside the grid, and what is unusual."""
    is_path = grid.base in ("like", "plan", "file") or os.sep in value
    parts = [grid.name] if grid.name else []
    if not grid.name or len(grid.values) > 1:
        parts.append(
            Path(value).name.removesuffix(".gguf").removesuffix(".json").removesuffix(".toml")
            if is_path
            else value
        )
    if len(grid.matrices) > 1:
        parts.append("no matrix" if matrix == NO_MATRIX else matrix)
    if len(grid.priors) > 1 and matrix != NO_MATRIX:
        parts.append(f"prior {prior}")
    if cache != ("f16", "f16"):
        parts.append(f"(cache {cache[0]}/{cache[1]})")
    return " ".join(parts)


def make_candidates(
    source: GgufFile, choices: tuple[Choice, ...], matrices: Mapping[str, SharedFile]
) -> CandidateSet:
    """Plan every choice; one that cannot be carried out is skipped with its reason.

    Choices that differ in caches only share a plan. Raises PlanError where nothing is left.
    """
    loaded = {name: load_imatrix(file.path) for name, file in matrices.items()}
    plans: dict[tuple[object, ...], Candidate | str] = {}
    sizes: dict[str, int] = {}
    made, skipped = [], {}
    for choice in choices:
        key = (id(choice.grid), choice.value, choice.matrix, choice.prior)
        if key not in plans:
            plans[key] = _planned(source, choice, loaded, matrices, sizes)
        found = plans[key]
        if isinstance(found, str):
            skipped[choice.name] = found
            continue
        sizes[choice.name] = sizes[found.name]
        type_k, type_v = choice.cache
        made.append(Candidate(choice.name, found.plan, found.matrix, found.file, type_k, type_v))
    if choices and not made:
        name, reason = next(iter(skipped.items()))
        raise PlanError(f"no candidate can be made; {name}: {reason}")
    return CandidateSet(tuple(made), sizes, skipped)


def _planned(
    source: GgufFile,
    choice: Choice,
    loaded: Mapping[str, Imatrix],
    matrices: Mapping[str, SharedFile],
    sizes: dict[str, int],
) -> Candidate | str:
    """The candidate without a cache, or why it cannot be."""
    if choice.grid.base == "file":
        ModelFile.describe(choice.value)  # says what an incomplete file lacks
        file = shared_model(choice.value)
        sizes[choice.name] = file.nbytes
        return Candidate(choice.name, file=file)
    try:
        plan = _plan(source, choice, loaded.get(choice.matrix))
    except (PlanError, ImatrixError) as error:
        return str(error)
    if plan.blocking_findings:
        return plan.blocking_findings[0].message
    sizes[choice.name] = plan.total_bytes
    return Candidate(choice.name, plan=plan.to_json(), matrix=matrices.get(choice.matrix))


def _plan(source: GgufFile, choice: Choice, imatrix: Imatrix | None) -> Plan:
    if choice.grid.base == "plan":
        return Plan.load(choice.value)
    base = {choice.grid.base: choice.value}
    return make_plan(
        source,
        tier=base.get("tier"),
        ftype=base.get("ftype"),
        like=base.get("like"),
        tensor_types=choice.grid.tensor_types,
        imatrix=imatrix,
        prior=choice.prior,
    )
