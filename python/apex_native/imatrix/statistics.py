"""``llama-imatrix --show-statistics``, the same figures (tools/imatrix/imatrix.cpp), in double."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex_native.imatrix.entries import Imatrix, ImatrixEntry

__all__ = ["LayerStatistics", "TensorStatistics", "layer_statistics", "tensor_statistics"]

ACTIVE_ABOVE = 1e-5
"""A mean squared activation up to this counts as inactive (compute_statistics)."""


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Figures over one tensor's mean squared activations, experts without tokens left out.

    total, min, max, mean, std (population); active: share above 1e-5; n: values; entropy in bits
    of the values as a distribution, entropy_norm: over log2(n); zd: share more than one std above
    the mean; cos_sim: of the raw sums with the same tensor one layer before, 0 without one.
    """

    name: str
    layer: int
    tensor: str
    total: float
    min: float
    max: float
    mean: float
    std: float
    active: float
    n: int
    entropy: float
    entropy_norm: float
    zd: float
    cos_sim: float


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Means over a layer's tensors, weighted by their number of values."""

    layer: int
    total: float
    zd: float
    cos_sim: float


def tensor_statistics(imatrix: Imatrix) -> tuple[TensorStatistics, ...]:
    """A row for each tensor with data, by kind and falling total, as upstream prints them."""
    rows = [
        _row(name, entry, _cos_sim(imatrix, name, entry))
        for name, entry in imatrix.entries.items()
        if entry.counts.any()
    ]
    return tuple(sorted(rows, key=lambda row: (row.tensor, -row.total)))


def layer_statistics(rows: Sequence[TensorStatistics]) -> tuple[LayerStatistics, ...]:
    """A row for each layer; tensors outside the layers are left out, as upstream does."""
    result = []
    for layer in sorted({row.layer for row in rows if row.layer >= 0}):
        own = [row for row in rows if row.layer == layer]
        n = sum(row.n for row in own)
        result.append(
            LayerStatistics(
                layer=layer,
                total=sum(row.n * row.total for row in own) / n,
                zd=sum(row.n * row.zd for row in own) / n,
                cos_sim=sum(row.n * row.cos_sim for row in own) / n,
            )
        )
    return tuple(result)


def _row(name: str, entry: ImatrixEntry, cos_sim: float) -> TensorStatistics:
    seen = entry.counts > 0
    values = (entry.sums[seen].astype(np.float64) / entry.counts[seen, None]).ravel()
    total, mean = values.sum(), values.mean()
    std = values.std()
    entropy = _entropy(values)
    layer, tensor = _place(name)
    return TensorStatistics(
        name=name,
        layer=layer,
        tensor=tensor,
        total=float(total),
        min=float(values.min()),
        max=float(values.max()),
        mean=float(mean),
        std=float(std),
        active=float((np.abs(values) > ACTIVE_ABOVE).mean()),
        n=values.size,
        entropy=entropy,
        entropy_norm=entropy / float(np.log2(values.size)) if values.size > 1 else 0.0,
        zd=float(((values - mean) > std).mean()) if std > 0 else 0.0,
        cos_sim=cos_sim,
    )


def _entropy(values: npt.NDArray[np.float64]) -> float:
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(-(shares * np.log2(shares)).sum())


def _cos_sim(imatrix: Imatrix, name: str, entry: ImatrixEntry) -> float:
    match = re.search(r"blk\.(\d+)\.", name)
    if match is None:
        return 0.0
    previous = name[: match.start(1)] + str(int(match[1]) - 1) + name[match.end(1) :]
    other = imatrix.entries.get(previous)
    if other is None or other.sums.size != entry.sums.size:
        return 0.0
    a, b = (sums.ravel().astype(np.float64) for sums in (entry.sums, other.sums))
    norms = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norms if norms else 0.0


def _place(name: str) -> tuple[int, str]:
    """The layer (-1 outside them) and the part before ".weight", as process_tensor_name finds."""
    parts = name.split(".")
    layer = -1
    if "blk" in parts[:-1]:
        number = parts[parts.index("blk") + 1]
        layer = int(number) if number.isdecimal() else -1
    tensor = parts[parts.index("weight") - 1] if "weight" in parts[1:] else name
    return layer, tensor
