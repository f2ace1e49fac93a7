"""Strategies at equal bytes, ranked on one text with paired verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from apex_native.allocation.request import SearchRequest
from apex_native.allocation.session import Measurement, ProbeSession, SessionSettings
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.store import ProbeStore
from apex_native.allocation.strategies import STRATEGIES, Strategy, strategy_types
from apex_native.allocation.texts import Part, split_texts
from apex_native.allocation.verdict import Ratio, kld_ratio, standard_error
from apex_native.errors import PlanError
from apex_native.gguf import GgufFile
from apex_native.imatrix import Imatrix, Importance
from apex_native.types import GgmlType

__all__ = ["Ranked", "Ranking", "rank_strategies", "uniform_types"]

Types = Mapping[str, GgmlType]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A strategy's file and KLD; ratio is its KLD over that of the one before it in the ranking."""

    name: str
    says: str
    nbytes: int
    kld_mean: float
    kld_se: float
    ratio: Ratio | None
    measured: Measurement


@dataclass(frozen=True, slots=True)
class Ranking:
    """Best first; skipped says why a strategy could not be had at this size."""

    budget: int
    rows: Sequence[Ranked]
    skipped: Mapping[str, str]

    def ratio(self, name: str, other: str) -> Ratio | None:
        """KLD of one over another's, paired; None where one is missing."""
        by_name = {row.name: row.measured for row in self.rows}
        if name not in by_name or other not in by_name:
            return None
        return kld_ratio(by_name[name], by_name[other])


def rank_strategies(
    source: GgufFile,
    request: SearchRequest,
    imatrix: Imatrix,
    *,
    more: Mapping[str, tuple[str, Types, Imatrix | None]] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[Ranking]:
    """Every strategy at every budget of the request, on the verify part of its text.

    more: further files as (what they say, types, matrix), by name: a search's result, another
    matrix. Raises what a search raises.
    """
    rankings = []
    for budget in request.budgets:
        jobs, skipped = _jobs(source, replace(request, budgets=(budget,)), imatrix, more or {})
        rankings.append(_ranked(source, request, budget, jobs, skipped, progress))
    return rankings


def uniform_types(source: GgufFile, request: SearchRequest, imatrix: Imatrix) -> Types:
    """Types of the uniform strategy at the request's one budget."""
    (budget,) = request.budgets
    uniform = next(strategy for strategy in STRATEGIES if strategy.name == "uniform")
    return strategy_types(_space(source, request, uniform, imatrix), uniform, budget)


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    says: str
    types: Types
    nbytes: int
    imatrix: Imatrix | None


def _jobs(
    source: GgufFile,
    request: SearchRequest,
    imatrix: Imatrix,
    more: Mapping[str, tuple[str, Types, Imatrix | None]],
) -> tuple[list[_Job], dict[str, str]]:
    jobs: list[_Job] = []
    skipped: dict[str, str] = {}
    (budget,) = request.budgets
    for strategy in STRATEGIES:
        matrix = imatrix if strategy.matrix else None
        space = _space(source, request, strategy, matrix)
        try:
            types: Types = strategy_types(space, strategy, budget)
        except PlanError as error:
            skipped[strategy.name] = str(error)
            continue
        jobs.append(_Job(strategy.name, strategy.says, types, space.file_bytes(types), matrix))
    space = SearchSpace.of(source, Importance(imatrix, source.facts).summary(), request)
    for name, (says, types, matrix) in more.items():
        jobs.append(_Job(name, says, types, space.plan(types).total_bytes, matrix))
    return jobs, skipped


def _space(
    source: GgufFile, request: SearchRequest, strategy: Strategy, matrix: Imatrix | None
) -> SearchSpace:
    with_ladder = replace(request, ladder=strategy.ladder)
    summary = None if matrix is None else Importance(matrix, source.facts).summary()
    return SearchSpace.of(source, summary, with_ladder)


def _ranked(
    source: GgufFile,
    request: SearchRequest,
    budget: int,
    jobs: Sequence[_Job],
    skipped: Mapping[str, str],
    progress: Callable[[str, float], None] | None,
) -> Ranking:
    measured: dict[str, Measurement] = {}
    matrices = {id(job.imatrix): job.imatrix for job in jobs}
    for key, matrix in matrices.items():
        own = [job for job in jobs if id(job.imatrix) == key]
        settings = SessionSettings(request.ctx, request.placement)
        with (
            ProbeStore(None) as store,
            ProbeSession(source, matrix, store, settings) as session,
        ):
            part = _part(request, session)
            infos = {tensor.name: tensor for tensor in source.tensors}
            changed = [
                {n: t for n, t in job.types.items() if t is not infos[n].type} for job in own
            ]
            step = None if progress is None else lambda s: progress(f"{budget:,} bytes", s)
            for job, found in zip(own, session.measure(changed, part, progress=step), strict=True):
                measured[job.name] = found
    order = sorted(jobs, key=lambda job: measured[job.name].mean)
    rows = []
    for before, job in zip([None, *order], order, strict=False):
        found = measured[job.name]
        ratio = None if before is None else kld_ratio(found, measured[before.name])
        rows.append(
            Ranked(job.name, job.says, job.nbytes, found.mean, standard_error(found), ratio, found)
        )
    return Ranking(budget, rows, skipped)


def _part(request: SearchRequest, session: ProbeSession) -> Part:
    text = split_texts(
        request.texts,
        session.model,
        ctx=request.ctx,
        sizes=request.effort.sizes,
        seed=request.seed,
    )
    return text.verify
