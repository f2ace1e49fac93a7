"""The call behind `apex_native.search`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from apex_native._native import core
from apex_native.allocation.outcome import SearchOutcome
from apex_native.allocation.request import SearchRequest
from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.speed import measure_plan, parse_min_speed
from apex_native.allocation.speed_goal import SpeedGoal, speed_goal
from apex_native.allocation.steps import Search, SearchProgress
from apex_native.allocation.store import ProbeStore
from apex_native.allocation.texts import DomainText, split_texts
from apex_native.argument_kinds import require_kind
from apex_native.gguf import GgufFile
from apex_native.imatrix import Hessian, Imatrix, Importance, read_text
from apex_native.types import MetadataValue

__all__ = ["check_budgets", "search", "search_types"]


def search(
    source: GgufFile,
    budgets: int | Sequence[int],
    texts: Sequence[str | os.PathLike[str]],
    *,
    imatrix: Imatrix | None = None,
    hessian: Hessian | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: SearchProgress | None = None,
    **rules: Any,
) -> SearchOutcome:
    """Find the best types for file sizes in bytes, measured on text files (a domain each).

        found = apex.search(model, 12_000_000_000, ["chat.txt", "code.txt"], imatrix=imatrix)
        apex.quantize(model, found.budgets[0].plan, "model.gguf", imatrix=imatrix)

    hessian: second moments of the inputs (`HessianFile(path).hessian`): everything is measured, and
    is to be quantized, with bytes fitted to them. rules: fields of `SearchRequest` (ladder,
    tensor_types, floor, together, seed, effort, placement). Raises what `search_types` raises.
    """
    require_kind("source", source, GgufFile, "open it with apex.open_gguf")
    require_kind("budgets", budgets, (int, list, tuple), "give bytes, or a list of them")
    require_kind("texts", texts, (list, tuple), "give a list of text files")
    request = SearchRequest(
        budgets=(budgets,) if isinstance(budgets, int) else tuple(budgets),
        texts=tuple(DomainText(Path(path).name, read_text([Path(path)])) for path in texts),
        **rules,
    )
    return search_types(source, request, imatrix, hessian=hessian, store=store, progress=progress)


def check_budgets(source: GgufFile, request: SearchRequest) -> list[str]:
    """Raise PlanError, with the numbers, for a budget that no importance matrix could meet.

    Returns a sentence for every rule of `tensor_types` without effect.
    """
    if request.min_tg is not None:
        parse_min_speed(request.min_tg)
    space = SearchSpace.with_any_matrix(source, request)
    for budget in request.budgets:
        space.problem(budget)
    return space.rules_without_effect()


def _provenance() -> dict[str, MetadataValue]:
    """What every plan records of this package, as `apex_native.make_plan` does."""
    info = core.build_info()
    return {
        "apex.version": info["version"],
        "apex.llama_cpp_commit": info["llama_cpp_commit"],
    }


def search_types(
    source: GgufFile,
    request: SearchRequest,
    imatrix: Imatrix | None,
    *,
    hessian: Hessian | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: SearchProgress | None = None,
) -> SearchOutcome:
    """Find the best types for budgets, by measuring; nothing is written but the store.

    store: where measurements are kept (a folder or a .sqlite file): an interrupted search goes on
    from them, another budget or text uses what fits. hessian: second moments that all bytes are
    fitted to, those of fixed recipes too; quantize the plans with it.

    Raises PlanError for a budget no choice meets, DataError for a text that is too short and a
    file that is no store, ModelError, GgufError, Cancelled.
    """
    summary = None if imatrix is None else Importance(imatrix, source.facts).summary()
    space = SearchSpace.of(source, summary, request, _provenance(), hessian)
    for budget in request.budgets:
        space.problem(budget)
    goal = speed_goal(space, imatrix)
    settings = SessionSettings(request.ctx, request.placement)
    path = None if store is None else Path(store)
    with (
        ProbeStore(path) as probes,
        ProbeSession(source, imatrix, probes, settings, hessian) as session,
    ):
        text = split_texts(
            request.texts,
            session.model,
            ctx=request.ctx,
            sizes=request.effort.sizes,
            seed=request.seed,
        )
        found = Search(space, session, text, progress, goal).run()
    return found if goal is None else _with_speeds(found, goal, source, imatrix, hessian, request)


def _with_speeds(
    found: SearchOutcome,
    goal: SpeedGoal,
    source: GgufFile,
    imatrix: Imatrix | None,
    hessian: Hessian | None,
    request: SearchRequest,
) -> SearchOutcome:
    """Measured speeds beside the predicted ones."""
    plans = {str(outcome.budget): (outcome.plan, imatrix) for outcome in found.budgets}
    speeds = measure_plan(source, plans, request.placement, hessian)
    outcomes = [replace(o, measured_speed=speeds[str(o.budget)]) for o in found.budgets]
    asked = {
        "calibrator": goal.calibrator,
        "calibrator_speed": asdict(goal.measured),
        "least_tg": goal.least,
        "fixed_s": goal.model.fixed_generate,
    }
    return replace(found, budgets=outcomes, report={**found.report, "speed": asked})
