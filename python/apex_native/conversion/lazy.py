"""Reads upstream's lazy tensors: what each was made of, and its value without keeping any.

Upstream remembers every value it computed, which for a whole model is all of it. Here a graph is
evaluated for the one who asks, and forgotten.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.conversion.upstream import upstream

__all__ = ["Operation", "dim_of", "evaluate", "files_of", "is_lazy", "leaves_of", "operation_of"]

ELEMENT = "element"
"""Name of the operation that takes one of several results, of a split for example."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One node: the name of what is called, what calls it, and with what.

    For one of several results the name is that of the call that gives them, element its number.
    """

    name: str
    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    element: int | None = None


def is_lazy(value: Any) -> bool:
    """Is it a tensor or array that nobody computed yet?"""
    return isinstance(value, upstream().gguf.LazyBase)


def operation_of(node: Any) -> Operation:
    """How a lazy value comes about."""
    call, args, kwargs = node._func, tuple(node._args), dict(node._kwargs)
    if getattr(call, "__name__", "") == "eager_tuple_element":
        inner = inspect.getclosurevars(call).nonlocals["fn"]
        return Operation(_name(inner), inner, tuple(args[0][0]), kwargs, args[1])
    return Operation(_name(call), call, args, kwargs)


def _name(call: Any) -> str:
    return str(getattr(call, "name", None) or getattr(call, "__name__", ""))


def dim_of(operation: Operation, position: int, default: int | None = None) -> int | None:
    """The argument `dim`, wherever it was given; None where it is no single number."""
    for key in ("dim", "axis"):
        if key in operation.kwargs:
            value = operation.kwargs[key]
            return value if isinstance(value, int) else None
    value = operation.args[position] if len(operation.args) > position else default
    return value if isinstance(value, int) else None


def evaluate(value: Any) -> Any:
    """The value of a lazy one; of a list or tuple, of each in it. Nothing is kept."""
    return _evaluate(value, {}, [])


def _evaluate(value: Any, known: dict[int, Any], alive: list[Any]) -> Any:
    if isinstance(value, list | tuple):
        # A split's results share their list of arguments, into which the first puts the value.
        if id(value) not in known:
            found: Sequence[Any] = [_evaluate(item, known, alive) for item in value]
            known[id(value)] = tuple(found) if isinstance(value, tuple) else found
            alive.append(value)
        return known[id(value)]
    if not is_lazy(value):
        return value
    if value._data is not None:
        return value._data
    if id(value) not in known:
        args = _evaluate(tuple(value._args), known, alive)
        known[id(value)] = value._func(*args, **value._kwargs)
        alive.append(value)
    return known[id(value)]


def files_of(value: Any) -> set[Path]:
    """The files that a lazy value is computed from."""
    return {Path(leaf.data_range.filename) for leaf in leaves_of(value)}


def leaves_of(value: Any) -> list[Any]:
    """The stored tensors that a lazy value is computed from: dtype, shape, data_range."""
    local = upstream().gguf.utility.LocalTensor
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, local):
            found.append(item)
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif is_lazy(item) and item._data is None:
            waiting.extend(item._args)
            waiting.extend(item._kwargs.values())
    return found
