"""What a result does otherwise than a fixed recipe, and what the search expects of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_native.allocation.solve import TensorCosts
from apex_native.allocation.space import SearchSpace
from apex_native.types import GgmlType

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One unit in two files: types, bytes, and the KLD (nats) the surrogate gives it in each."""

    unit: str
    kind: str
    layer: int | None
    n_weights: int
    types: tuple[str, ...]
    other_types: tuple[str, ...]
    nbytes: int
    other_nbytes: int
    kld: float
    other_kld: float


def differences(
    space: SearchSpace,
    costs: TensorCosts,
    ours: Mapping[str, GgmlType],
    theirs: Mapping[str, GgmlType],
) -> tuple[Difference, ...]:
    """Every unit that was measured, in the order of the layers; theirs may name more tensors."""

    def kld(names: tuple[str, ...], types: Mapping[str, GgmlType]) -> float:
        return sum(costs.additive(name, types[name]) for name in names)

    def nbytes(names: tuple[str, ...], types: Mapping[str, GgmlType]) -> int:
        return sum(space.nbytes(name, types[name]) for name in names)

    return tuple(
        Difference(
            unit=unit.name,
            kind=unit.kind,
            layer=unit.layer,
            n_weights=sum(space.infos[name].n_elements for name in unit.tensors),
            types=tuple(ours[name].name for name in unit.tensors),
            other_types=tuple(theirs[name].name for name in unit.tensors),
            nbytes=nbytes(unit.tensors, ours),
            other_nbytes=nbytes(unit.tensors, theirs),
            kld=kld(unit.tensors, ours),
            other_kld=kld(unit.tensors, theirs),
        )
        for unit in space.units
    )
