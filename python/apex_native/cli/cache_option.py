"""Types of the KV cache on the command line."""

from __future__ import annotations

from typing import Any

import typer

from apex_native.types import CACHE_TYPES

__all__ = ["cache_option"]

_NAMES = [type.name.lower() for type in CACHE_TYPES]


def cache_option(name: str, text: str, *, panel: str | None = None) -> Any:
    """An option whose value is the name of a type that the cache can have, as llama.cpp spells it.

    Its annotation has to be `str`: typer up to 0.26 makes None of a parser's enum.
    """
    return typer.Option(
        name, parser=_cache_name, metavar=f"[{'|'.join(_NAMES)}]", help=text, rich_help_panel=panel
    )


def _cache_name(name: str) -> str:
    if name.lower() not in _NAMES:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(_NAMES)}.")
    return name.lower()
