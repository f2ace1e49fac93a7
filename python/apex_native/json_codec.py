"""Frozen dataclasses to JSON values and back, by their type hints.

Enums are stored by value if that is a string and by name otherwise; tuples as arrays. Decoding
checks every type and names the place of a mistake, so that a damaged file is an error of the
caller's own class and never an AttributeError later.
"""

from __future__ import annotations

import dataclasses
import math
import types
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from apex_native.errors import ApexError

__all__ = ["decode", "encode"]

_T = TypeVar("_T")


def encode(value: object) -> Any:
    """The JSON value (dict, list, str, int, float, bool, None) of a dataclass tree."""
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def decode(
    kind: type[_T],
    value: object,
    where: str,
    *,
    error: type[ApexError],
    use_defaults: bool = False,
) -> _T:
    """Build a ``kind`` from a JSON value; ``where`` names the value in errors.

    Keys that ``kind`` does not have are ignored (derived values are stored for readers). A key
    that is missing is an error unless use_defaults is set and the field has a default. Raises
    ``error`` for missing keys, wrong types and numbers that are not finite.
    """
    result: _T = _Decoder(error, use_defaults).any(kind, value, where)
    return result


class _Decoder:
    """One way of decoding: the class of its errors, and what a missing key means."""

    def __init__(self, error: type[ApexError], use_defaults: bool) -> None:
        self._error = error
        self._use_defaults = use_defaults

    def any(self, hint: Any, value: object, where: str) -> Any:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), value, where)
        if origin is tuple:
            if not isinstance(value, list):
                raise self._wrong("an array", value, where)
            element = get_args(hint)[0]
            return tuple(self.any(element, item, f"{where}[{i}]") for i, item in enumerate(value))
        if isinstance(hint, type) and issubclass(hint, Enum):
            return self._enum(hint, value, where)
        if dataclasses.is_dataclass(hint):
            return self._dataclass(hint, value, where)
        return self._scalar(hint, value, where)

    def _union(self, options: tuple[Any, ...], value: object, where: str) -> Any:
        if value is None and types.NoneType in options:
            return None
        wanted = [option for option in options if option is not types.NoneType]
        if len(wanted) == 1:
            return self.any(wanted[0], value, where)
        # Several options occur only in metadata values: scalars, and arrays of them.
        for option in wanted:
            is_array = get_origin(option) is tuple
            if is_array == isinstance(value, list) and (is_array or type(value) is option):
                return self.any(option, value, where)
        raise self._wrong("a scalar or an array", value, where)

    def _enum(self, hint: type[Enum], value: object, where: str) -> Enum:
        for member in hint:
            if value == encode(member):
                return member
        known = ", ".join(str(encode(member)) for member in hint)
        raise self._wrong(f"one of {known}", value, where)

    def _dataclass(self, hint: Any, value: object, where: str) -> Any:
        if not isinstance(value, dict):
            raise self._wrong("an object", value, where)
        hints = get_type_hints(hint)
        arguments = {}
        for field in dataclasses.fields(hint):
            if field.name in value:
                place = f"{where}.{field.name}"
                arguments[field.name] = self.any(hints[field.name], value[field.name], place)
            elif not (self._use_defaults and _has_default(field)):
                raise self._error(f"{where}: '{field.name}' is missing")
        return hint(**arguments)

    def _scalar(self, hint: Any, value: object, where: str) -> Any:
        if hint is float and type(value) is int:
            try:
                return float(value)
            except OverflowError:
                raise self._wrong("a number that fits a double", value, where) from None
        if type(value) is not hint:
            raise self._wrong(f"{hint.__name__}", value, where)
        if isinstance(value, float) and not math.isfinite(value):  # 1e999 is a number in JSON
            raise self._wrong("a finite number", value, where)
        return value

    def _wrong(self, expected: str, value: object, where: str) -> ApexError:
        return self._error(f"{where}: expected {expected}, found {_shown(value)}")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _shown(value: object) -> str:
    """At most 80 characters; no repr of containers that may be nested deeply."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    try:
        return repr(value)[:80]
    except ValueError:  # an int of more digits than Python prints
        return "a number of thousands of digits"
