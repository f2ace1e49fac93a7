"""Variants of a tier: other types for some positions, named, or published for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_native.plan.edges import Position
from apex_native.types import GgmlType, GgufFacts

__all__ = ["TierVariant", "model_names", "same_name"]


@dataclass(frozen=True, slots=True)
class TierVariant:
    """What differs from the tier, by rule and position; models it was published for."""

    name: str
    description: str
    models: tuple[str, ...]
    types: Mapping[str, Mapping[Position, GgmlType]]

    def words(self) -> str:
        """The types that differ: ``IQ2_S for near experts``."""
        return ", ".join(
            f"{type} for {position.value} {rule}"
            for rule, types in self.types.items()
            for position, type in types.items()
        )


def model_names(facts: GgufFacts) -> tuple[str, ...]:
    """What a file calls its model; not what it was made from, for which nothing is published."""
    found = (facts.metadata.get(f"general.{key}") for key in ("name", "basename"))
    return tuple(name for name in found if isinstance(name, str))


def same_name(first: str, second: str) -> bool:
    """``Qwen3.5-35B-A3B`` and ``Qwen3.5 35B A3b`` are one model."""
    a, b = ("".join(c for c in name.lower() if c.isalnum()) for name in (first, second))
    return a == b
