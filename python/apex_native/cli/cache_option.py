"""Types of the KV cache on the command line."""

from __future__ import annotations

from typing import Any

import typer

from apex_native.types import CACHE_TYPES, GgmlType

__all__ = ["cache_option"]

_BY_NAME = {type.name.lower(): type for type in CACHE_TYPES}


def cache_option(name: str, text: str, *, panel: str | None = None) -> Any:
    """An option whose value is a GgmlType that the cache can have; f16 unless given."""
    return typer.Option(
        name, parser=_cache_type, metavar=f"[{'|'.join(_BY_NAME)}]", show_default="f16",
        help=text, rich_help_panel=panel,
    )  # fmt: skip


def _cache_type(name: str | GgmlType) -> GgmlType:
    if isinstance(name, GgmlType):  # the default
        return name
    if name.lower() not in _BY_NAME:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(_BY_NAME)}.")
    return _BY_NAME[name.lower()]
