"""Maps of what is inside: the type of every role in every layer, and the experts that were seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from apex_native.reports.html.figures import Figure
from apex_native.types import GgmlType, Role

__all__ = ["coverage_figure", "type_figures"]

_SCALE = "Viridis"


def type_figures(manifests: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """One map a file, of what `quantize` recorded: layer by role, colour = bits a weight."""
    return [_type_figure(i, name, found) for i, (name, found) in enumerate(manifests.items())]


def _type_figure(number: int, name: str, manifest: Mapping[str, Any]) -> Figure:
    bits: dict[tuple[str, int], list[float]] = {}
    types: dict[tuple[str, int], set[str]] = {}
    for tensor in manifest["tensors"]:
        layer = tensor["layer"]
        key = (tensor["role"], -1 if layer is None else int(layer))
        weights = 1
        for size in tensor["shape"]:
            weights *= size
        found = bits.setdefault(key, [0.0, 0.0])
        found[0] += 8 * tensor["bytes"]
        found[1] += weights
        types.setdefault(key, set()).add(GgmlType.parse(tensor["type"]).name)
    layers = sorted({layer for _, layer in bits})
    roles = [role.value for role in Role if any(key[0] == role.value for key in bits)]
    z = [[_mean(bits.get((role, layer))) for layer in layers] for role in roles]
    text = [[", ".join(sorted(types.get((role, layer), ()))) for layer in layers] for role in roles]
    trace = {
        "type": "heatmap",
        "x": ["outside" if layer < 0 else str(layer) for layer in layers],
        "y": roles,
        "z": z,
        "text": text,
        "zmin": 1,
        "zmax": 16,
        "xgap": 1,
        "ygap": 1,
        "colorscale": _SCALE,
        "hovertemplate": "%{y}, layer %{x}<br>%{text}: %{z:.2f} bits<extra></extra>",
        "colorbar": {"title": {"text": "bits"}},
    }
    layout = {
        "xaxis": {"title": {"text": "layer"}, "type": "category", "nticks": 20},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return Figure(
        f"types{number}", f"Types of {name}", "Bits a weight by role and layer.",
        [trace], layout, 180 + 24 * len(roles),
    )  # fmt: skip


def _mean(found: Sequence[float] | None) -> float | None:
    return None if not found or not found[1] else found[0] / found[1]


def coverage_figure(coverage: Mapping[str, Any]) -> Figure | None:
    """Tokens that calibration sent to each expert; coverage is the JSON that `imatrix` wrote."""
    rows = [
        (router["layer"], router["tokens"])
        for router in coverage.get("layers", ())
        if router.get("tokens")
    ]
    if not rows:
        return None
    trace = {
        "type": "heatmap",
        "y": [f"{layer}" for layer, _ in rows],
        "z": [[math.log10(1 + n) for n in counts] for _, counts in rows],
        "customdata": [counts for _, counts in rows],
        "colorscale": _SCALE,
        "hovertemplate": "layer %{y}, expert %{x}: %{customdata:,} tokens<extra></extra>",
        "colorbar": {"title": {"text": "log10 tokens"}},
    }
    layout = {
        "xaxis": {"title": {"text": "expert"}},
        "yaxis": {
            "title": {"text": "layer"}, "autorange": "reversed", "type": "category",
            "nticks": 20,
        },
    }  # fmt: skip
    return Figure(
        "coverage", "Experts that calibration saw",
        "A dark cell is an expert that the importance matrix knows little of.",
        [trace], layout, 160 + 14 * len(rows),
    )  # fmt: skip
