"""Names of outputs: which the Hub can label and llama.cpp find, or as in the published files.

The Hub takes a label from the last part of a name that is a file type of llama.cpp's with at most
one word behind it (``GGUF_QUANT_RE`` of huggingface.js); ``llama-server -hf repo:TAG`` takes the
first file in which TAG is followed by ``.`` or ``-`` (``find_best_model`` of common/download.cpp).
"""

from __future__ import annotations

import re
from enum import StrEnum

from apex_native.errors import PlanError
from apex_native.gguf_layout import model_stem
from apex_native.plan import Plan, has_other_types
from apex_native.plan.ftypes import file_type_name

__all__ = ["NameStyle", "default_output_name", "name_tag", "tier_word"]

_SOURCE_TYPE = re.compile(r"[-._](bf16|f16|fp16|f32|fp32)$", re.IGNORECASE)
_DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_TAG = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)


class NameStyle(StrEnum):
    """hub: names that tools can parse; published: as the first APEX files were named."""

    HUB = "hub"
    PUBLISHED = "published"


def default_output_name(
    source_name: str, plan: Plan, style: NameStyle | str = NameStyle.HUB
) -> str:
    """``Model-APEX-Q6_K_IQUALITY.gguf`` for a tier, ``Model-Q4_K_M.gguf`` for a file type.

    A tier's name begins with the type that has the most bytes; published gives
    ``Model-APEX-I-Quality.gguf``. The source's shard number and its -bf16 or -f16 are left out. A
    recipe with overrides is not the one its name promises and says ``custom``. Raises PlanError for
    a plan of given types, ValueError for an unknown style.
    """
    stem = _SOURCE_TYPE.sub("", model_stem(source_name))
    if plan.tier is None and not plan.ftype:
        raise PlanError("a plan of given types has no name of its own; name the output with -o")
    is_custom = has_other_types(plan)
    if NameStyle(style) is NameStyle.PUBLISHED:
        return f"{stem}-{_published(plan)}{'-custom' if is_custom else ''}.gguf"
    custom = "CUSTOM" if is_custom else ""
    if plan.tier is None:
        return f"{stem}-{plan.ftype}{'_' if custom else ''}{custom}.gguf"
    return f"{stem}-APEX-{file_type_name(plan.file_type)}_{custom}{tier_word(plan.tier)}.gguf"


def tier_word(tier: str) -> str:
    """``IQUALITY`` for i-quality, ``MINIQTHREE`` for mini-q3: one word of letters.

    The Hub's pattern ends at the next underscore, digit or dash, so that mini-q3 and mini-q4 would
    have one label.
    """
    spelled = "".join(_DIGITS[int(c)] if c in "0123456789" else c for c in tier.upper())
    return re.sub(r"[^A-Z]", "", spelled)


def _published(plan: Plan) -> str:
    if plan.tier is None:
        return plan.ftype
    return "APEX-" + "-".join(part.capitalize() for part in plan.tier.split("-"))


def name_tag(file_name: str) -> str | None:
    """What ``llama-server -hf repo:TAG`` calls a file, None where it has no name for it.

    ``get_gguf_split_info`` of llama.cpp: the last word of the name without its shard number.
    """
    found = _TAG.search(model_stem(file_name))
    return found.group(1).upper() if found else None
