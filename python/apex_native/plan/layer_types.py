"""Types by tensor and layer: the part of a tier that a search wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from apex_native.errors import PlanError
from apex_native.plan.names import layer_number
from apex_native.types import GgmlType

__all__ = ["LayerTypes", "format_layer_types", "parse_layer_types", "part_name"]

_PREFIX = re.compile(r"blk\.\d+\.")


def part_name(name: str) -> str:
    """``ffn_down_exps.weight`` for ``blk.3.ffn_down_exps.weight``, other names unchanged."""
    return _PREFIX.sub("", name, count=1)


@dataclass(frozen=True, slots=True)
class LayerTypes:
    """For a model of n_layer layers, the type of a tensor by its name within the layer.

    parts maps ``ffn_down_exps.weight`` to a type for each layer that has it; tensors maps whole
    names outside the layers. In a model of another depth a layer takes the type of the nearest one
    at the same relative depth.
    """

    n_layer: int
    parts: Mapping[str, Mapping[int, GgmlType]]
    tensors: Mapping[str, GgmlType]

    def type_for(self, name: str, n_layer: int) -> tuple[GgmlType, str] | None:
        """The type and the place it was written for; None where nothing is said of the tensor."""
        layer = layer_number(name)
        if layer is None:
            found = self.tensors.get(name)
            return None if found is None else (found, name)
        by_layer = self.parts.get(part_name(name))
        if not by_layer or layer >= n_layer:
            return None
        wanted = layer * (self.n_layer - 1) / max(n_layer - 1, 1)
        nearest = min(by_layer, key=lambda known: (abs(known - wanted), known))
        return by_layer[nearest], f"{part_name(name)}, layer {nearest} of {self.n_layer}"


def format_layer_types(layers: LayerTypes) -> str:
    """The ``[layers]`` tables as TOML."""
    lines = ["[layers]", f"n_layer = {layers.n_layer}"]
    if layers.tensors:
        lines += ["", "[layers.tensors]"]
        lines += [f'"{name}" = "{type.name}"' for name, type in sorted(layers.tensors.items())]
    for part, by_layer in sorted(layers.parts.items()):
        lines += ["", f'[layers.parts."{part}"]']
        by_type: dict[GgmlType, list[int]] = {}
        for layer, type in sorted(by_layer.items()):
            by_type.setdefault(type, []).append(layer)
        lines += [
            f'{type.name} = "{_ranges(numbers)}"'
            for type, numbers in sorted(by_type.items(), key=lambda item: -item[0].bpw)
        ]
    return "\n".join(lines) + "\n"


def _ranges(numbers: list[int]) -> str:
    """``0-3,7``."""
    parts: list[str] = []
    begin = previous = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == previous + 1:
            previous = number
            continue
        parts.append(str(begin) if begin == previous else f"{begin}-{previous}")
        if number is not None:
            begin = previous = number
    return ",".join(parts)


def parse_layer_types(
    data: Mapping[str, Any], error: Callable[[str, str], PlanError]
) -> LayerTypes:
    """Read the ``[layers]`` tables; error(where, what) makes the exception."""
    n_layer = data.get("n_layer")
    if not isinstance(n_layer, int) or n_layer < 1:
        raise error("layers.n_layer", f"must be a positive integer, found {n_layer!r}")
    strange = sorted(set(data) - {"n_layer", "tensors", "parts"})
    if strange:
        raise error(f"layers.{strange[0]}", "is no known key; known: n_layer, tensors, parts")
    tensors = {
        name: _type(text, f"layers.tensors.{name}", error)
        for name, text in _table(data, "tensors", error).items()
    }
    parts = {}
    for part, table in _table(data, "parts", error).items():
        where = f"layers.parts.{part}"
        if not isinstance(table, dict):
            raise error(where, "must be a table")
        by_layer: dict[int, GgmlType] = {}
        for type_name, numbers in table.items():
            type = _type(type_name, where, error)
            for layer in _numbers(numbers, f"{where}.{type_name}", n_layer, error):
                if layer in by_layer:
                    raise error(where, f"names layer {layer} twice")
                by_layer[layer] = type
        parts[part] = by_layer
    return LayerTypes(n_layer, parts, tensors)


Error = Callable[[str, str], PlanError]


def _table(data: Mapping[str, Any], key: str, error: Error) -> Mapping[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise error(f"layers.{key}", "must be a table")
    return table


def _type(name: object, where: str, error: Error) -> GgmlType:
    if not isinstance(name, str):
        raise error(where, f"must name types, found {name!r}")
    try:
        found = GgmlType.parse(name)
    except ValueError as problem:
        raise error(where, str(problem)) from problem
    if not found.is_target:
        raise error(where, f"weights cannot be written as {found}")
    return found


def _numbers(text: object, where: str, n_layer: int, error: Error) -> list[int]:
    if not isinstance(text, str):
        raise error(where, f"must be layers as '0-3,7', found {text!r}")
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise error(where, f"must be layers as '0-3,7', found '{text}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < n_layer:
            raise error(where, f"names layers {part.strip()} of a model of {n_layer}")
        numbers += range(first, last + 1)
    return numbers
