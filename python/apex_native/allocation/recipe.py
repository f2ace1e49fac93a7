"""A result as a recipe: types by tensor and layer, for other models of the architecture."""

from __future__ import annotations

from apex_native.plan import Plan
from apex_native.plan.imatrix import ImatrixUse
from apex_native.plan.layer_types import LayerTypes, format_layer_types, part_name
from apex_native.plan.parts import DecidedBy
from apex_native.types import GgmlType

__all__ = ["recipe_text"]

_HEADER = """# Found by `apex-native search` for {architecture}; a tier: `--tier PATH.toml`.
# {nbytes:,} bytes, {bpw:.3f} bits per weight. What is not named here is Q8_0.

schema_version = 1
name = "{name}"
description = "Measured allocation, {nbytes:,} bytes for the model it was found on."
base = "Q8_0"
imatrix = "{imatrix}"

[rules]

[mtp]
position = "edge"
other = "Q6_K"

[mtp.projections]

"""


def recipe_text(plan: Plan, name: str) -> str:
    """The plan's types as TOML that `load_tier` reads; prediction blocks are left out."""
    parts: dict[str, dict[int, GgmlType]] = {}
    tensors: dict[str, GgmlType] = {}
    for tensor in plan.tensors:
        if tensor.decided_by in (DecidedBy.KEPT, DecidedBy.STORED) or tensor.is_mtp:
            continue
        if tensor.layer is None:
            tensors[tensor.name] = tensor.type
        else:
            parts.setdefault(part_name(tensor.name), {})[tensor.layer] = tensor.type
    needs = any(tensor.imatrix is ImatrixUse.REQUIRED for tensor in plan.tensors)
    header = _HEADER.format(
        architecture=plan.architecture,
        nbytes=plan.total_bytes,
        bpw=plan.bpw,
        name=name.replace("\\", "_").replace('"', "_"),
        imatrix="required" if needs else "optional",
    )
    return header + format_layer_types(LayerTypes(plan.n_layer, parts, tensors))
