"""Which of a unit's tensors its KLD comes from: measured in a few layers, told to all.

A unit's points say what its tensors cost together. Equal errors do not cost the same in all of
them: keys and queries of attention about half of what values and the projection after them do. Each
tensor is measured alone, coarse, in some layers of every kind; what its place in the layer makes is
shared by all layers, and a layer goes its own way as far as its noise lets it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.allocation.probing import DomainWeights
from apex_native.allocation.session import ProbeSession
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.surrogate import LEAST_KLD, Surrogate
from apex_native.allocation.texts import Part
from apex_native.allocation.units import Unit
from apex_native.types import GgmlType

__all__ = ["Excess", "measure_tensors", "tensor_weights"]

LAYERS = 4
"""Of every kind that are measured: what a place costs differs less between layers than places do.

Kinds count apart where their tensors do, as attention and state space."""

ANCHOR = GgmlType.IQ2_S
"""Coarse, so that a single tensor's KLD stands above the noise of few chunks."""

PLACES_SD = 0.7
"""Standard deviation, in ln, of what places cost; noise is weighed against it."""

LAYERS_SD = 0.3
"""And of what a layer makes of its place."""

LEAST_VARIANCE = 0.01
"""Of a measured ln: what the unit's curve misses by is there however much text is measured."""


@dataclass(frozen=True, slots=True)
class Excess:
    """ln of a tensor's measured KLD over what its unit's curve says of its error, and variance."""

    value: float
    variance: float


def measure_tensors(
    space: SearchSpace,
    session: ProbeSession,
    part: Part,
    weights: DomainWeights,
    surrogate: Surrogate,
    progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """What every tensor costs at equal error, over the mean of its unit's: see `tensor_weights`."""
    units = [unit for unit in space.units if len(unit.tensors) > 1]
    names = [name for unit in _spread(units) for name in unit.tensors]
    types = {name: some[0] for name, some in space.probe_types((ANCHOR,)).items()}
    found = session.measure([{name: types[name]} for name in names], part, progress=progress)
    kld = np.array([one.kld for one in found]).reshape(len(names), -1) * weights.of(part)
    unit_of = surrogate.unit_of()
    measured = {}
    for name, row, share in zip(
        names, kld, kld / np.maximum(kld.mean(axis=0), 1e-300), strict=True
    ):
        error = session.values.weight_error(name, types[name])
        expected = surrogate.curves[unit_of[name].name](error)
        mean = max(float(row.mean()), LEAST_KLD)
        # As for units: chunks differ in how much anything costs there, the share is uncertain.
        noise = float(share.std() / max(float(share.mean()), 1e-300)) / np.sqrt(len(row))
        if expected > LEAST_KLD:
            measured[name] = Excess(float(np.log(mean / expected)), LEAST_VARIANCE + noise**2)
    return tensor_weights(units, measured)


def tensor_weights(units: Sequence[Unit], measured: Mapping[str, Excess]) -> dict[str, float]:
    """Factors of mean 1 in every unit, from what some units' tensors cost alone.

    The ln of a tensor's factor is its place's, drawn towards 0, and its layer's own difference from
    that, drawn towards the place: normal priors of `PLACES_SD` and `LAYERS_SD`.
    """
    excesses = {}
    for unit in units:
        own = {name: measured[name] for name in unit.tensors if name in measured}
        if len(own) == len(unit.tensors):
            centre = float(np.mean([excess.value for excess in own.values()]))
            excesses.update({name: Excess(e.value - centre, e.variance) for name, e in own.items()})
    places: dict[tuple[str, str], list[Excess]] = defaultdict(list)
    for unit in units:
        for name in unit.tensors:
            places[unit.kind, _place(name, unit)] += [excesses[name]] if name in excesses else []
    means = {place: _place_mean(found) for place, found in places.items()}
    weights: dict[str, float] = {}
    for unit in units:
        logs = [
            _drawn_to(means[unit.kind, _place(name, unit)], excesses.get(name))
            for name in unit.tensors
        ]
        factors = np.exp(logs)
        weights.update(zip(unit.tensors, map(float, factors / factors.mean()), strict=True))
    return weights


def _place_mean(found: Sequence[Excess]) -> float:
    precisions = np.array([1 / (e.variance + LAYERS_SD**2) for e in found])
    total = float(precisions @ np.array([e.value for e in found])) if found else 0.0
    return total / float(precisions.sum() + 1 / PLACES_SD**2)


def _drawn_to(mean: float, own: Excess | None) -> float:
    if own is None:
        return mean
    return mean + (own.value - mean) * LAYERS_SD**2 / (LAYERS_SD**2 + own.variance)


def _place(name: str, unit: Unit) -> str:
    return name.removeprefix(f"blk.{unit.layer}.")


def _spread(units: Sequence[Unit]) -> list[Unit]:
    """Of each kind, and of each set of tensors, a few from first to last."""
    alike: dict[tuple[str, frozenset[str]], list[Unit]] = defaultdict(list)
    for unit in units:
        places = frozenset(_place(name, unit) for name in unit.tensors)
        alike[unit.kind, places].append(unit)
    chosen: list[Unit] = []
    for some in alike.values():
        n = min(LAYERS, len(some))
        chosen += [some[int((i + 0.5) * len(some) / n)] for i in range(n)]
    return chosen
