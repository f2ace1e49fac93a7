"""Frozen dataclasses to JSON values and back, by their type hints.

Enums are stored by value if that is a string and by name otherwise; tuples as arrays. Decoding
checks every type and names the place of a mistake, so that a damaged file is a PlanError and
never an AttributeError later.
"""

from __future__ import annotations

import dataclasses
import types
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from apex_native.errors import PlanError

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


def decode(kind: type[_T], value: object, where: str) -> _T:
    """Build a ``kind`` from a JSON value; ``where`` names the value in errors.

    Keys that ``kind`` does not have are ignored (derived values are stored for readers).
    Raises PlanError for missing keys and wrong types.
    """
    result: _T = _decode(kind, value, where)
    return result


def _decode(hint: Any, value: object, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong("an array", value, where)
        element = get_args(hint)[0]
        return tuple(_decode(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _decode_enum(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, where)
    return _decode_scalar(hint, value, where)


def _decode_union(options: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    wanted = [option for option in options if option is not types.NoneType]
    if len(wanted) == 1:
        return _decode(wanted[0], value, where)
    # Several options occur only in metadata values: scalars, and arrays of them.
    for option in wanted:
        is_array = get_origin(option) is tuple
        if is_array == isinstance(value, list) and (is_array or type(value) is option):
            return _decode(option, value, where)
    raise _wrong("a scalar or an array", value, where)


def _decode_enum(hint: type[Enum], value: object, where: str) -> Enum:
    for member in hint:
        if value == encode(member):
            return member
    known = ", ".join(str(encode(member)) for member in hint)
    raise _wrong(f"one of {known}", value, where)


def _decode_dataclass(hint: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong("an object", value, where)
    hints = get_type_hints(hint)
    arguments = {}
    for field in dataclasses.fields(hint):
        if field.name not in value:
            raise PlanError(f"{where}: '{field.name}' is missing")
        place = f"{where}.{field.name}"
        arguments[field.name] = _decode(hints[field.name], value[field.name], place)
    return hint(**arguments)


def _decode_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _wrong(f"{hint.__name__}", value, where)
    return value


def _wrong(expected: str, value: object, where: str) -> PlanError:
    shown = repr(value)
    return PlanError(f"{where}: expected {expected}, found {shown[:80]}")
