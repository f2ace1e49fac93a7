"""Do a plan, a source and an importance matrix go together? Asked before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.argument_kinds import require_kind
from apex_native.errors import ImatrixError, PlanError
from apex_native.plan import FindingKind, Plan
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix, Importance

__all__ = ["check_inputs", "importance_of", "values_of"]

_REMEDIES = {
    FindingKind.IMATRIX_NEEDED: "pass one with `imatrix`, or collect one with `calibrate`",
    FindingKind.IMATRIX_WRONG_SIZE: "collect it again, from this very model",
    FindingKind.IMATRIX_MATCHES_NOTHING: "give the matrix of this model",
}
"""What to do about a finding that blocks a run."""


def check_inputs(
    source: WeightSource,
    plan: Plan,
    imatrix: Imatrix | None,
    *,
    allow_requantize: bool,
    imatrix_follows: bool = False,
) -> None:
    """Raise PlanError or ImatrixError where plan, source and imatrix do not go together.

    imatrix_follows: the plan is asked before its importance matrix is collected, and may lack it.
    """
    plan.check_source(source.facts)
    if source.missing_data is not None:
        raise PlanError(
            f"{source.missing_data}; it can be inspected and planned, but not quantized: "
            "download the whole file"
        )
    if plan.imatrix_sha256 != (imatrix.sha256 if imatrix else None):
        raise ImatrixError(
            "the plan was made "
            + ("with another importance matrix" if plan.imatrix_sha256 else "without one")
            + " than the one given; make the plan again with this one"
        )
    blocking = [
        finding
        for finding in plan.blocking_findings
        if not (imatrix_follows and finding.kind is FindingKind.IMATRIX_NEEDED)
    ]
    if blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        remedy = _REMEDIES.get(blocking[0].kind, "choose other types or another source")
        where = f"{blocking[0].tensor}: " if blocking[0].tensor else ""
        raise PlanError(
            f"the plan cannot be carried out: {where}{blocking[0].message}{more}; {remedy}"
        )
    for tensor in plan.tensors:
        if tensor.source_type.is_quantized and tensor.type is not tensor.source_type:
            if not allow_requantize:
                raise PlanError(
                    f"{tensor.name} is already quantized ({tensor.source_type}); start from a 16- "
                    "or 32-bit file, or pass `allow_requantize=True` and accept the loss"
                )
            break


def values_of(
    plan: Plan | str | os.PathLike[str], imatrix: Imatrix | str | os.PathLike[str] | None
) -> tuple[Plan, Imatrix | None]:
    """What was given as a path, read; TypeError for what is neither."""
    require_kind(
        *("plan", plan, (Plan, str, os.PathLike)),
        "give what apex.make_plan gave, or the path of a saved plan",
    )
    plan = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    if imatrix is None:
        return plan, None
    from apex_native.imatrix import as_imatrix

    return plan, as_imatrix(imatrix)


def importance_of(source: WeightSource, plan: Plan, imatrix: Imatrix | None) -> Importance | None:
    """The matrix as the plan says it is used: numpy is needed only where there is one."""
    if imatrix is None:
        return None
    from apex_native.imatrix import Importance

    return Importance(imatrix, source.facts, plan.imatrix_prior)
