"""Names of outputs, like those of the published files."""

from __future__ import annotations

import re
from dataclasses import replace

from apex_native.errors import PlanError
from apex_native.plan import Plan, PlanOptions, default_edges

__all__ = ["default_output_name"]

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_SOURCE_TYPE = re.compile(r"[-._](bf16|f16|fp16|f32|fp32)$", re.IGNORECASE)


def default_output_name(source_name: str, plan: Plan) -> str:
    """``Model-APEX-I-Quality.gguf`` for a tier, ``Model-Q4_K_M.gguf`` for a file type.

    The source's shard number and its -bf16 or -f16 are left out. A recipe with overrides is not
    the one its name promises and gets ``-custom``. Raises PlanError for a plan of given types.
    """
    stem = source_name.removesuffix(".gguf")
    stem = _SOURCE_TYPE.sub("", _SHARD.sub("", stem))
    if plan.tier is not None:
        recipe = "APEX-" + "-".join(part.capitalize() for part in plan.tier.split("-"))
    elif plan.ftype:
        recipe = plan.ftype
    else:
        raise PlanError("a plan of given types has no name of its own; name the output with -o")
    own_edges = plan.edges is not None and plan.edges != default_edges(plan.n_layer)[0]
    is_custom = own_edges or replace(plan.options, repair=False) != PlanOptions()
    return f"{stem}-{recipe}{'-custom' if is_custom else ''}.gguf"
