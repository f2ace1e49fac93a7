"""What a file's name says it is: an APEX tier, a mix of llama.cpp, or something else.

Results do not hold recipes, and files made elsewhere hold none either; their names do, by a
convention that `naming` follows too.
"""

from __future__ import annotations

import re
from enum import StrEnum

from apex_native.plan import tier_names
from apex_native.plan.ftypes import FileType

__all__ = ["FileKind", "file_kind", "recipe_in_name"]


class FileKind(StrEnum):
    """Whose recipe made a file; the values are legends of plots."""

    TIER = "APEX tier"
    MIX = "llama.cpp mix"
    OTHER = "other recipe"


_MIXES = {name for name, member in FileType.__members__.items() if member.number >= 0}


def file_kind(name: str) -> FileKind:
    """The kind of ``Model-APEX-Q6_K_QUALITY.gguf``, ``Model-Q4_K_M.gguf``, ``…-UD-Q4_K_XL.gguf``.

    A mix is a name that ends with a file type of llama-quantize, or is one; UD- before it
    (Unsloth's dynamic types) or custom behind it (see `naming`) make it another recipe. Tiers are
    known by both styles of names.
    """
    stem = name.removesuffix(".gguf")
    words = [word for word in re.split(r"[-. /]", stem) if word]
    lower = [word.lower() for word in words]
    if not words or lower[-1] == "custom":
        return FileKind.OTHER
    tiers = {tier.removeprefix("i-") for tier in tier_names()}
    hub_words = {tier.replace("-", "") for tier in tier_names()}
    if "apex" in lower and lower[-1].rpartition("_")[2] in hub_words and "_" in lower[-1]:
        return FileKind.TIER
    if lower[-1] in tiers and ("apex" in lower or stem.lower() in {*tiers, *tier_names()}):
        return FileKind.TIER
    if words[-1].upper() in _MIXES and "ud" not in lower:
        return FileKind.MIX
    return FileKind.OTHER


def recipe_in_name(name: str) -> str | None:
    """``i-quality`` or ``Q4_K_M`` for a file named by `naming`, in either style; else None."""
    stem = name.removesuffix(".gguf")
    kind = file_kind(name)
    if kind is FileKind.MIX:
        return re.split(r"[-. /]", stem)[-1].upper()
    if kind is not FileKind.TIER:
        return None
    last = stem.lower().replace("apex-i-", "apex-i").rpartition("-")[2].rpartition("_")[2]
    words = {tier.replace("-", ""): tier for tier in tier_names()}
    return words.get(last) or words.get(stem.lower().replace("-", ""))
