"""A picture of a result: bits per weight, layers across, tensors down."""

from __future__ import annotations

import os

import numpy as np

from apex_native.errors import OutputError
from apex_native.plan import Plan
from apex_native.plan.layer_types import part_name
from apex_native.plan.parts import DecidedBy

__all__ = ["save_bits"]

FEW_LAYERS = 24
"""Up to so many, the types fit into the cells."""


def save_bits(plan: Plan, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write a picture (PNG, SVG or PDF by suffix): the type of every tensor as bits per weight.

    Raises OutputError where it cannot be written or matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError("a picture needs matplotlib; `pip install matplotlib`") from error
    rows = _rows(plan)
    names = list(rows)
    n_layer = max((layer for cells in rows.values() for layer in cells), default=0) + 1
    bits = np.full((len(names), n_layer), np.nan)
    for row, name in enumerate(names):
        for layer, (_, value) in rows[name].items():
            bits[row, layer] = value
    figure = Figure(
        figsize=(min(3.2 + 0.62 * n_layer, 22), 1.6 + 0.3 * len(names)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(
        np.minimum(bits, 9.0), cmap="viridis", vmin=2, vmax=9, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("layer (tensors outside the layers stand under the first)")
    axes.set_title(title or f"{plan.bpw:.3f} bits per weight, {plan.total_bytes:,} bytes")
    figure.colorbar(image, ax=axes, label="bits per weight (16-bit tensors: 9)")
    if n_layer <= FEW_LAYERS:
        axes.set_xticks(range(n_layer))
        for row, name in enumerate(names):
            for layer, (type_name, value) in rows[name].items():
                axes.text(
                    layer, row, type_name, ha="center", va="center", fontsize=6,
                    color="white" if value < 5.5 else "black",
                )  # fmt: skip
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def _rows(plan: Plan) -> dict[str, dict[int, tuple[str, float]]]:
    """By name within the layer: type and bits of every layer, what was kept left out."""
    rows: dict[str, dict[int, tuple[str, float]]] = {}
    for tensor in plan.tensors:
        if tensor.decided_by is DecidedBy.KEPT:
            continue
        name = part_name(tensor.name).removesuffix(".weight")
        layer = tensor.layer if tensor.layer is not None else 0
        rows.setdefault(name, {})[layer] = (tensor.type.name, tensor.type.bpw)
    return rows
