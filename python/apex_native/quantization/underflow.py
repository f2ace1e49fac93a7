"""Tensors whose weights are too small for the scales of the type they get, found by sample."""

from __future__ import annotations

from collections.abc import Iterator

from apex_native._native import core
from apex_native.plan import Finding, FindingKind, Plan, PlannedTensor
from apex_native.quantization.proportion import error_bound
from apex_native.types import GgmlType
from apex_native.weights import WeightSource, read_rows

__all__ = ["underflow_findings"]

_NARROW = frozenset({GgmlType.NVFP4})
"""Types with a scale that weights of trained models can fall below.

NVFP4's smallest is 2^-9 and ggml's quantizer knows no scale per tensor: 16 weights below 6/1024
become zeros (quantize_row_nvfp4_ref). F16 scales reach down to 6e-8, MXFP4's to 2^-127.
"""

_SAMPLED_ROWS = 16


def underflow_findings(source: WeightSource, plan: Plan) -> Iterator[Finding]:
    """A warning for each planned tensor of which a sample of rows loses too much."""
    if not source.facts.has_data:
        return
    for tensor in plan.tensors:
        bound = error_bound(tensor.type)
        readable = tensor.source_type.is_target and tensor.source_type is not tensor.type
        if tensor.type not in _NARROW or bound is None or not readable or not tensor.n_elements:
            continue
        error, zeros = _sampled(source, tensor)
        if error > bound:
            yield Finding(
                FindingKind.SCALE_UNDERFLOW,
                tensor.name,
                f"its weights are too small for {tensor.type}'s scales: of {_SAMPLED_ROWS} rows "
                f"{zeros:.0%} of the weights would become zeros",
            )


def _sampled(source: WeightSource, tensor: PlannedTensor) -> tuple[float, float]:
    """Relative RMSE over rows from all over the tensor, and the share of weights lost to zero."""
    import numpy as np  # where it is needed: planning works without

    n_per_row = tensor.shape[-1]
    n_rows = tensor.n_elements // n_per_row
    chosen = np.unique(np.linspace(0, n_rows - 1, _SAMPLED_ROWS).astype(int))
    rows = np.concatenate([read_rows(source, tensor.name, int(row), 1) for row in chosen])
    weights = core.dequantize_rows(rows.reshape(-1), tensor.source_type.id, n_per_row)
    packed = core.quantize_rows(weights, tensor.type.id)
    back = core.dequantize_rows(packed.reshape(-1), tensor.type.id, n_per_row)
    total = float(np.square(weights, dtype=np.float64).sum())
    lost = float(np.square(back - weights, dtype=np.float64).sum())
    zeros = float(((back == 0) & (weights != 0)).mean())
    return (float(np.sqrt(lost / total)) if total else 0.0), zeros
