"""Do a plan, a source and an importance matrix go together? Asked before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.errors import ImatrixError, PlanError
from apex_native.gguf import GgufFile
from apex_native.plan import FindingKind, Plan

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["check_inputs"]

_REMEDIES = {
    FindingKind.IMATRIX_NEEDED: "pass one with --imatrix, or a text with --calibration",
    FindingKind.IMATRIX_WRONG_SIZE: "collect it again, from this very model",
}
"""What to do about a finding that blocks a run."""


def check_inputs(
    source: GgufFile,
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
    if not source.facts.has_data:
        raise PlanError(
            f"{source.path} holds the header only: it can be planned but there are no weights to "
            "quantize; download the whole file"
        )
    if plan.imatrix_sha256 != (imatrix.sha256 if imatrix else None):
        raise ImatrixError(
            "the plan was made "
            + ("with another importance matrix" if plan.imatrix_sha256 else "without one")
            + " than the one given; make the plan again with this one"
        )
    if imatrix is not None and plan.imatrix_prior != imatrix.prior:
        raise ImatrixError(
            f"the plan was made with the matrix's prior {plan.imatrix_prior or 'none'}, it is "
            f"{imatrix.prior or 'none'} now; make the plan again with this one"
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
                    "or 32-bit file, or pass --allow-requantize and accept the loss"
                )
            break
