"""Arguments of the wrong kind get a sentence at the door, not an AttributeError deep inside."""

from __future__ import annotations

from types import NoneType
from typing import Any

__all__ = ["require_kind"]

_SHOWN = 60
"""Characters of a value in a message."""


def require_kind(
    argument: str, value: object, kind: type[Any] | tuple[type[Any], ...], advice: str
) -> None:
    """Raise TypeError unless value is of a kind: what was expected, what was found, what to do."""
    if isinstance(value, kind):
        return
    kinds = [k for k in (kind if isinstance(kind, tuple) else (kind,)) if k is not NoneType]
    wanted = " or ".join(_named(one) for one in kinds)
    text = repr(value)
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    raise TypeError(
        f"{argument}: expected {wanted}, found {_named(type(value))} {shown}; {advice}"
        if value is not None
        else f"{argument}: expected {wanted}, found None; {advice}"
    )


def _named(kind: type[Any]) -> str:
    name = {"str": "a string", "PathLike": "a path"}.get(kind.__name__)
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    return name or f"{article} {kind.__name__}"
