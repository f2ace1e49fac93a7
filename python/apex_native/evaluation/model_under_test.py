"""A model under test: which one, with which KV cache, where it computes, what it is called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apex_native.engine import Placement
from apex_native.evaluation.model_source import ModelFile, ModelSource
from apex_native.types import CACHE_TYPES, GgmlType

__all__ = ["AnyModel", "ModelUnderTest", "cache_name", "cache_type", "names_of",
           "require_attention", "unique_name"]  # fmt: skip


def cache_type(name: str | GgmlType) -> GgmlType:
    """A type for keys or values of the cache; ValueError for one it cannot have."""
    type = name if isinstance(name, GgmlType) else GgmlType.__members__.get(name.upper())
    if type not in CACHE_TYPES:
        choice = ", ".join(t.name.lower() for t in CACHE_TYPES)
        raise ValueError(f"a KV cache cannot have type {name}; choose {choice}")
    return type


def cache_name(type: GgmlType) -> str | None:
    """What results say of a cache's type; None for F16, which their settings name."""
    return None if type is GgmlType.F16 else type.name.lower()


_PLAIN = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
"""Types of values that attention reads without ggml's flash attention."""


def require_attention(type_v: GgmlType, flash_attn: str | None) -> None:
    """Raise ValueError for cached values that need flash attention where it is switched off."""
    if flash_attn == "off" and type_v not in _PLAIN:
        raise ValueError(
            f"a V cache of {type_v.name.lower()} needs flash attention, which is switched off; "
            "leave it at auto, or choose f16, bf16 or f32"
        )


@dataclass(frozen=True, init=False)
class ModelUnderTest:
    """One model as text scores, tasks and speed tests take it.

        ModelUnderTest("mini.gguf", type_k="q8_0", placement=Placement(n_gpu_layers=-1))

    source: a path or a `ModelSource`. type_k, type_v: types of its KV cache (`CACHE_TYPES`).
    own_placement: where it computes, None where the call it is given to says so. label: its name in
    results, default the source's. Raises GgufError for a path that is no model, ValueError for a
    type that no cache has.
    """

    source: ModelSource
    type_k: GgmlType
    type_v: GgmlType
    own_placement: Placement | None
    label: str | None

    def __init__(
        self,
        source: str | os.PathLike[str] | ModelSource,
        *,
        type_k: str | GgmlType = GgmlType.F16,
        type_v: str | GgmlType = GgmlType.F16,
        placement: Placement | None = None,
        label: str | None = None,
    ) -> None:
        """Look at the file, where it is one."""
        set_field = object.__setattr__
        if isinstance(source, str | os.PathLike):
            source = ModelFile.describe(source)
        set_field(self, "source", source)
        set_field(self, "type_k", cache_type(type_k))
        set_field(self, "type_v", cache_type(type_v))
        set_field(self, "own_placement", placement)
        set_field(self, "label", label)

    @property
    def placement(self) -> Placement:
        """Where it computes: all threads of the CPU, unless it was told."""
        return self.own_placement or Placement()

    def placed(self, placement: Placement | None) -> ModelUnderTest:
        """The same model there, unless it has a placement of its own."""
        if placement is None or self.own_placement is not None:
            return self
        return self.moved(placement)

    def moved(self, placement: Placement) -> ModelUnderTest:
        """The same model there, wherever it was told to be."""
        return ModelUnderTest(
            self.source,
            type_k=self.type_k,
            type_v=self.type_v,
            placement=placement,
            label=self.label,
        )

    @property
    def has_own_cache(self) -> bool:
        """Its KV cache is not the F16 that the settings of results name."""
        return (self.type_k, self.type_v) != (GgmlType.F16, GgmlType.F16)

    @property
    def name(self) -> str:
        """The label, or the source's name with the cache's types where they are under test."""
        if self.label is not None:
            return self.label
        if not self.has_own_cache:
            return self.source.name
        return f"{self.source.name} (cache {self.type_k.name.lower()}/{self.type_v.name.lower()})"


AnyModel = str | os.PathLike[str] | ModelSource | ModelUnderTest


def unique_name(model: ModelUnderTest, used: Iterable[str]) -> str:
    """The model's name, with its folder or a number where that is taken."""
    taken, name = set(used), model.name
    path: Path | None = model.source.path
    folder = "" if path is None else path.parent.name  # nothing where a path has no folder
    if name in taken and folder and model.label is None:
        name = f"{folder}/{name}"
    base, number = name, 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return name


def names_of(models: Iterable[ModelUnderTest]) -> dict[str, ModelUnderTest]:
    """Each model by a name of its own."""
    named: dict[str, ModelUnderTest] = {}
    for model in models:
        named[unique_name(model, named)] = model
    return named
