"""What llama.cpp does when rows are not a whole number of blocks (``tensor_type_fallback``)."""

from __future__ import annotations

from apex_native.errors import PlanError
from apex_native.types import GgmlType

__all__ = ["fit_to_rows"]

_SMALLER_BLOCK = {
    GgmlType.IQ1_S: GgmlType.IQ4_NL,
    GgmlType.IQ1_M: GgmlType.IQ4_NL,
    GgmlType.IQ2_XXS: GgmlType.IQ4_NL,
    GgmlType.IQ2_XS: GgmlType.IQ4_NL,
    GgmlType.IQ2_S: GgmlType.IQ4_NL,
    GgmlType.IQ3_XXS: GgmlType.IQ4_NL,
    GgmlType.IQ3_S: GgmlType.IQ4_NL,
    GgmlType.IQ4_XS: GgmlType.IQ4_NL,
    GgmlType.Q2_0: GgmlType.Q4_0,
    GgmlType.Q2_K: GgmlType.Q4_0,
    GgmlType.Q3_K: GgmlType.Q4_0,
    GgmlType.TQ1_0: GgmlType.Q4_0,
    GgmlType.TQ2_0: GgmlType.Q4_0,
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}
"""A type with blocks of 32 for each with larger ones, of at least its precision."""

_SMALLEST_BLOCK = 32


def fit_to_rows(wanted: GgmlType, n_per_row: int) -> GgmlType:
    """The type a tensor with rows of n_per_row weights gets when ``wanted`` is asked.

    ``wanted`` itself if its blocks divide the row, else the type of smaller blocks llama.cpp
    falls back to, and F16 if that does not divide it either. Raises PlanError where llama.cpp
    defines no fallback (NVFP4, Q1_0).
    """
    if n_per_row % wanted.block_size == 0:
        return wanted
    smaller = _SMALLER_BLOCK.get(wanted)
    if smaller is None:
        if wanted.block_size > _SMALLEST_BLOCK:
            raise PlanError(
                f"{wanted} needs rows that are multiples of {wanted.block_size}, found "
                f"{n_per_row}, and llama.cpp defines no fallback for it; choose another type"
            )
        return GgmlType.F16
    return smaller if n_per_row % smaller.block_size == 0 else GgmlType.F16
