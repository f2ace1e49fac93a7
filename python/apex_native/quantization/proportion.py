"""Is a written tensor's error what its type costs, or did something go wrong with it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apex_native.errors import QuantizeError
from apex_native.plan import Finding, FindingKind
from apex_native.quantization.manifest import TensorRecord
from apex_native.types import GgmlType

__all__ = ["OutOfProportionError", "error_bound", "error_findings"]


class OutOfProportionError(QuantizeError):
    """What strict makes of such a tensor: the work is kept, a run without strict accepts it."""


_LARGEST_SEEN = {
    GgmlType.F16: 0.00021,
    GgmlType.BF16: 0.0017,
    GgmlType.Q8_0: 0.0086,
    GgmlType.Q6_K: 0.0295,
    GgmlType.Q5_0: 0.0664,
    GgmlType.Q5_1: 0.0489,
    GgmlType.Q5_K: 0.0495,
    GgmlType.Q4_0: 0.1314,
    GgmlType.Q4_1: 0.0991,
    GgmlType.Q4_K: 0.0995,
    GgmlType.IQ4_NL: 0.1079,
    GgmlType.IQ4_XS: 0.1077,
    GgmlType.MXFP4: 0.1437,
    GgmlType.NVFP4: 0.1130,
    GgmlType.Q3_K: 0.1966,
    GgmlType.IQ3_S: 0.2362,
    GgmlType.IQ3_XXS: 0.3294,
    GgmlType.Q2_K: 0.3488,
    GgmlType.IQ2_S: 0.4423,
    GgmlType.IQ2_XS: 0.4636,
    GgmlType.IQ2_XXS: 0.5418,
    GgmlType.IQ1_M: 0.5997,
    GgmlType.IQ1_S: 0.6612,
    GgmlType.Q2_0: 0.7267,
    GgmlType.Q1_0: 0.7693,
    GgmlType.TQ1_0: 0.8298,
    GgmlType.TQ2_0: 0.8298,
}
"""Relative RMSE over uniform, normal, Laplace and t(3) rows, with and without importances: the
largest of each type (bench/quantization_error.py, bench/results/quantization_error.md)."""


def error_bound(type: GgmlType) -> float | None:
    """Relative RMSE above which a tensor's error is out of proportion; None for exact types.

    Twice the largest that was measured, and at most half way from it to 1, the error of writing
    nothing but zeros.
    """
    largest = _LARGEST_SEEN.get(type)
    return None if largest is None else min(2 * largest, (1 + largest) / 2)


def error_findings(tensors: Iterable[TensorRecord]) -> Iterator[Finding]:
    """A warning for each written tensor whose measured error is out of proportion for its type."""
    for tensor in tensors:
        if tensor.outputs is not None:
            continue  # error feedback gives up weights' error for outputs'
        bound = error_bound(tensor.type)
        if bound is not None and tensor.relative_rmse > bound:
            yield Finding(
                FindingKind.ERROR_OUT_OF_PROPORTION,
                tensor.name,
                f"{tensor.type} lost {tensor.relative_rmse:.1%} of its weights' rms, more than "
                f"the {bound:.2%} this type may cost; give it another type",
            )
