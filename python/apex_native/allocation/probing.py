"""Measuring what each unit costs alone, on the fit part, domains weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.allocation.session import Measurement, ProbeSession
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.surrogate import Point, UnitData
from apex_native.allocation.texts import Part, SearchText
from apex_native.allocation.units import Unit
from apex_native.types import GgmlType

__all__ = ["ANCHORS", "DomainWeights", "ProbedUnits", "probe_units"]

ANCHORS = (GgmlType.Q4_K, GgmlType.IQ2_S)
"""Types each unit is measured in: two points fix the curve; one alone costs 10 to 52 % of KLD.

A third, Q6_K, would show the floor that rounded activations put under every type (`Curve.floor`,
which is 0 without it): single Q6_K tensors cost more than the curve says. Where that counts, above
6 bits per weight, it is the measured candidates that decide."""

DOMINATES = 3.0
"""A domain is named whose KLD is so many times the others' mean."""


EVENNESS = 0.5
"""0: a domain weighs as much as its KLD; 1: all weigh the same, those, too, that a model knows by
heart and that hardly anything disturbs. In between both models of `bench/results/search_demo.md`
and `search_second_model.md` fare best, on text of the same domains as on other text."""


@dataclass(frozen=True, slots=True)
class DomainWeights:
    """A factor for each chunk of a part that brings the domains' mean KLDs closer to that of all.

    A domain of four times the others' KLD weighs twice as much as they do, not four times. The
    factors' mean is not 1: weighted KLDs compare with each other.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    """Mean KLD of the probes by domain."""

    def of(self, part: Part) -> np.ndarray:
        """Weights of a part's chunks."""
        levels = np.array(self.levels)
        usable = levels > 0
        mean = float(levels[usable].mean()) if usable.any() else 1.0
        factors = np.where(usable, mean / np.where(usable, levels, 1.0), 1.0) ** EVENNESS
        return factors[list(part.domains)]

    def dominating(self) -> tuple[str, float] | None:
        """The domain whose KLD is far above the others', and how many times."""
        if len(self.levels) < 2:
            return None
        top = int(np.argmax(self.levels))
        others = float(np.mean([v for i, v in enumerate(self.levels) if i != top]))
        ratio = self.levels[top] / others if others > 0 else float("inf")
        return (self.names[top], ratio) if ratio > DOMINATES else None


@dataclass(frozen=True, slots=True)
class ProbedUnits:
    """What was measured: kld float64 (n_jobs, n_chunks), nats, domains weighted."""

    units: tuple[Unit, ...]
    jobs: tuple[tuple[Unit, Mapping[str, GgmlType]], ...]
    kld: np.ndarray
    weights: DomainWeights

    def data(self, seed: int | None = None) -> list[UnitData]:
        """As the surrogate takes it; with a seed, on chunks drawn with replacement."""
        n = self.kld.shape[1]
        drawn: list[int] = list(range(n))
        if seed is not None:
            drawn = np.random.default_rng(seed).integers(0, n, size=(n,)).tolist()
        kld = self.kld[:, drawn]
        means = kld.mean(axis=1)
        # Chunks differ in how much anything costs there; what is uncertain is the share.
        shares = kld / np.maximum(kld.mean(axis=0), 1e-300)
        spread = shares.std(axis=1) / np.maximum(shares.mean(axis=1), 1e-300) / np.sqrt(n)
        points: dict[str, list[Point]] = {unit.name: [] for unit in self.units}
        for i, (unit, types) in enumerate(self.jobs):
            se = float(means[i] * spread[i])
            points[unit.name].append(Point(types, float(means[i]), se, n))
        return [UnitData(unit, tuple(points[unit.name])) for unit in self.units]


def probe_units(
    space: SearchSpace,
    session: ProbeSession,
    text: SearchText,
    anchors: Sequence[GgmlType] = ANCHORS,
    progress: Callable[[float], None] | None = None,
) -> ProbedUnits:
    """Every unit in every anchor alone."""
    stand_ins = space.probe_types(anchors)
    jobs: list[tuple[Unit, Mapping[str, GgmlType]]] = []
    for unit in space.units:
        seen: list[dict[str, GgmlType]] = []
        for i in range(len(anchors)):
            types = {name: stand_ins[name][i] for name in unit.tensors}
            if types not in seen:
                seen.append(types)
        jobs += [(unit, types) for types in seen]
    found = session.measure([types for _, types in jobs], text.fit, progress=progress)
    weights = _domain_weights(found, text)
    kld = np.array([measured.kld for measured in found]) * weights.of(text.fit)
    return ProbedUnits(space.units, tuple(jobs), kld, weights)


def _domain_weights(found: Sequence[Measurement], text: SearchText) -> DomainWeights:
    kld = np.array([measured.kld for measured in found])
    domains = np.array(text.fit.domains)
    levels = [
        float(kld[:, domains == d].mean()) if (domains == d).any() else 0.0
        for d in range(len(text.names))
    ]
    return DomainWeights(text.names, tuple(levels))
