"""What a file's name says it is: an APEX tier, a mix of llama.cpp, or something else.

Results do not hold recipes, and files made elsewhere hold none either; their names do, by a
convention that `naming` follows too.
"""

from __future__ import annotations

import re
from enum import StrEnum

from apex_native.plan import every_tier_name
from apex_native.plan.ftypes import FileType
from apex_native.reports.naming import tier_word

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
    known by both styles of names. What a sweep or an evaluation adds to a name (``i-quality prior
    none``, ``Model-Q4_K_M (cache q8_0/q4_0)``) leaves it the recipe it was.
    """
    kind = _kind_of(name)
    return kind if kind is not FileKind.OTHER else _kind_of(name.partition(" ")[0])


def _kind_of(name: str) -> FileKind:
    stem = name.removesuffix(".gguf")
    words = [word for word in re.split(r"[-. /]", stem) if word]
    lower = [word.lower() for word in words]
    if not words or lower[-1] == "custom":
        return FileKind.OTHER
    if _tier_in(stem) is not None:
        return FileKind.TIER
    if words[-1].upper() in _MIXES and "ud" not in lower:
        return FileKind.MIX
    return FileKind.OTHER


def recipe_in_name(name: str) -> str | None:
    """``i-quality`` or ``Q4_K_M`` for a file named by `naming`, in either style; else None."""
    stem = name.removesuffix(".gguf")
    kind = _kind_of(name)
    if kind is FileKind.MIX:
        return re.split(r"[-. /]", stem)[-1].upper()
    if kind is not FileKind.TIER:
        return None
    return _tier_in(stem)


def _tier_in(stem: str) -> str | None:
    """The tier that a name ends with behind APEX, in either style, or that it is."""
    known = every_tier_name()
    if stem.lower() in known:
        return stem.lower()
    _, apex, rest = stem.lower().rpartition("apex-")
    if not apex or rest in known:
        return rest if apex else None
    _, mark, word = rest.rpartition("_")
    return {tier_word(tier).lower(): tier for tier in known}.get(word) if mark else None
