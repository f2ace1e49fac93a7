"""Which types a tensor may have: the ladder, less what shape, matrix and user forbid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apex_native.errors import PlanError
from apex_native.plan import Plan
from apex_native.plan.imatrix import EntryFit, ImatrixSummary, ImatrixUse, entry_fit, imatrix_use
from apex_native.types import GgmlType, TensorInfo

__all__ = ["LADDERS", "ladder_types", "type_choices"]

T = GgmlType

_K = (T.Q8_0, T.Q6_K, T.Q5_K, T.Q4_K, T.Q3_K, T.Q2_K)

_ALL = (
    *(T.Q8_0, T.Q6_K, T.Q5_K, T.Q4_K, T.IQ4_XS, T.Q3_K, T.IQ3_S, T.IQ3_XXS, T.Q2_K),
    *(T.IQ2_S, T.IQ2_XS, T.IQ2_XXS),
)

_IQ = (T.Q8_0, T.IQ4_XS, T.IQ3_S, T.IQ3_XXS, T.IQ2_S, T.IQ2_XS, T.IQ2_XXS)

LADDERS: Mapping[str, tuple[GgmlType, ...]] = {"all": _ALL, "k-only": _K, "iq-only": _IQ}
"""By name. k-only leaves out the IQ types: slow on CPUs and on some GPUs."""

_SMALL_BLOCKS = (T.Q8_0, T.Q5_1, T.Q5_0, T.Q4_1, T.IQ4_NL, T.Q4_0)
"""For rows that are no whole number of 256-weight blocks."""


def ladder_types(name: str) -> tuple[GgmlType, ...]:
    """The types of a ladder; PlanError for a name that is none."""
    if name not in LADDERS:
        raise PlanError(f"unknown ladder '{name}'; known: {', '.join(LADDERS)}")
    return LADDERS[name]


def type_choices(
    plan: Plan,
    tensors: Sequence[TensorInfo],
    ladder: Sequence[GgmlType],
    imatrix: ImatrixSummary | None,
    pinned: Mapping[str, GgmlType],
) -> dict[str, tuple[GgmlType, ...]]:
    """For each tensor of the plan the types that are possible, most precise first.

    pinned tensors have one. Others keep their source's 16-bit type as the most precise choice;
    types that need an importance matrix are left out where it has no fitting entry.
    """
    choices: dict[str, tuple[GgmlType, ...]] = {}
    for planned, info in zip(plan.tensors, tensors, strict=True):
        if planned.name in pinned:
            choices[planned.name] = (pinned[planned.name],)
            continue
        wanted = ladder if info.n_per_row % 256 == 0 else _SMALL_BLOCKS
        fitting = [t for t in wanted if _is_possible(t, info, imatrix)]
        smaller = [t for t in fitting if t.tensor_bytes(info.shape) < info.nbytes]
        choices[planned.name] = (info.type, *smaller)
    return choices


def _is_possible(type: GgmlType, info: TensorInfo, imatrix: ImatrixSummary | None) -> bool:
    if info.n_per_row % type.block_size:
        return False
    needs = imatrix_use(info.name, info.type, type, None) is ImatrixUse.REQUIRED
    return not needs or entry_fit(imatrix, info) is EntryFit.FITS
