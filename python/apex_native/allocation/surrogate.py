"""From a few measured types per unit to the cost of every type of every tensor.

KLD(unit, type) = a E + s sqrt(E), a, s >= 0, with E the importance-weighted relative squared weight
error. The first term is what a smooth loss does; the second, what a disturbed router does. The two
are fitted to the measured types of a unit and drawn towards the ratio its layer has, since two
points of noise alone would often make one of them 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from apex_native.allocation.units import Unit
from apex_native.types import GgmlType

__all__ = ["Curve", "Point", "Surrogate", "UnitData", "fit_surrogate"]

TYPICAL_ERROR = 0.02
"""Where the shares of the two terms are compared: between Q3_K and Q2_K on trained weights."""

_PRIOR_ERRORS = (0.005, 0.06)
"""Where the layer's shape pulls at a unit's: the errors of about Q4_K and IQ2_S."""

FINE_ERROR = 0.001
"""Below (Q6_K has 0.0003), the floor decides, and points say nothing of the two terms."""

_SHARE_LIMITS = (0.02, 0.98)
LEAST_KLD = 1e-12
"""What a measured KLD of 0 counts as."""

PRIOR_CHUNKS = 4.0
"""The pull of each point, in chunks of measurement."""


@dataclass(frozen=True, slots=True)
class Point:
    """A unit's tensors in these types, everything else as in the source: its KLD, in nats."""

    types: Mapping[str, GgmlType]
    kld: float
    se: float
    n_chunks: int


@dataclass(frozen=True, slots=True)
class UnitData:
    """What was measured of a unit."""

    unit: Unit
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """a, s and floor of one unit, nats.

    floor is the cost of any quantized type, however precise: activations are rounded, too.
    """

    a: float
    s: float
    floor: float = 0.0

    def quadratic(self, error: float) -> float:
        """The smooth part."""
        return self.a * error

    def root(self, error: float) -> float:
        """The part that grows as the square root, and the floor of whatever is not exact.

        Floors are disturbances of the same kind: they add up as squares do.
        """
        return float(self.s * np.sqrt(error)) + (self.floor if error > 0 else 0.0)

    def __call__(self, error: float) -> float:
        """Both."""
        return self.quadratic(error) + self.root(error)


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Curves of all units, and by how much they miss what was measured."""

    curves: Mapping[str, Curve]
    units: Sequence[Unit]
    residual: float
    """Relative root mean square over the measured points."""
    shares: Mapping[int | None, float] = field(default_factory=dict)
    """By layer, the quadratic term's share at `TYPICAL_ERROR`."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What a tensor costs over the mean of its unit's at equal error; 1 where it is not named."""

    def unit_of(self) -> dict[str, Unit]:
        """The unit of every tensor."""
        return {name: unit for unit in self.units for name in unit.tensors}


Errors = Callable[[str, GgmlType], float]


def unit_error(unit: Unit, types: Mapping[str, GgmlType], errors: Errors) -> float:
    """Mean of its tensors' errors; those that are not named keep the source's type."""
    found = [errors(name, types[name]) for name in unit.tensors if name in types]
    return float(np.sum(found)) / len(unit.tensors)


def fit_surrogate(data: Sequence[UnitData], errors: Errors) -> Surrogate:
    """Fit every unit, then again with its layer's shape as a prior."""
    points = {d.unit.name: _points(d, errors) for d in data}
    first = {name: _fit(*_coarse(*p)) for name, p in points.items()}
    shares = _layer_shares(data, first)
    curves = {}
    for d in data:
        own = points[d.unit.name]
        fitted = _fit_with_prior(*_coarse(*own), shares[d.unit.layer])
        curves[d.unit.name] = _with_floor(fitted, *own)
    misses = [
        curve(e) / k - 1
        for name, curve in curves.items()
        for e, k, _ in zip(*points[name], strict=True)
    ]
    residual = float(np.sqrt(np.mean(np.square(misses)))) if misses else 0.0
    return Surrogate(curves, [d.unit for d in data], residual, shares)


Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def _points(data: UnitData, errors: Errors) -> Points:
    """Errors, KLDs and weights (in chunks) of what was measured."""
    rows = []
    for point in data.points:
        error = unit_error(data.unit, point.types, errors)
        if error <= 0:
            continue
        kld = max(point.kld, LEAST_KLD)
        # A point its own noise hides says little.
        rows.append((error, kld, point.n_chunks / (1 + (2 * point.se / kld) ** 2)))
    if not rows:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    e, k, w = (np.array(column) for column in zip(*rows, strict=True))
    return e, k, w


def _coarse(e: np.ndarray, k: np.ndarray, w: np.ndarray) -> Points:
    """The points the two terms are fitted to: all where none is coarse enough."""
    keep = e >= FINE_ERROR
    return (e[keep], k[keep], w[keep]) if keep.any() else (e, k, w)


def _with_floor(curve: Curve, e: np.ndarray, k: np.ndarray, w: np.ndarray) -> Curve:
    """What the fine points cost above the curve."""
    fine = e < FINE_ERROR
    if not fine.any() or fine.all():
        return curve
    above = k[fine] - np.array([curve(float(x)) for x in e[fine]])
    return replace(curve, floor=max(0.0, float(np.average(above, weights=w[fine]))))


def _fit(e: np.ndarray, k: np.ndarray, w: np.ndarray) -> Curve:
    from scipy.optimize import nnls

    if not len(e):
        return Curve(0.0, 0.0)
    root = np.sqrt(w)
    x, _ = nnls(np.c_[e, np.sqrt(e)] / k[:, None] * root[:, None], root)
    return Curve(float(x[0]), float(x[1]))


def _layer_shares(data: Sequence[UnitData], curves: Mapping[str, Curve]) -> dict[int | None, float]:
    shares: dict[int | None, list[float]] = {}
    for d in data:
        curve = curves[d.unit.name]
        total = curve(TYPICAL_ERROR)
        if total > 0:
            share = curve.quadratic(TYPICAL_ERROR) / total
            shares.setdefault(d.unit.layer, []).append(share)
    return {
        layer: float(np.clip(np.mean(values), *_SHARE_LIMITS)) for layer, values in shares.items()
    }


def _fit_with_prior(e: np.ndarray, k: np.ndarray, w: np.ndarray, share: float) -> Curve:
    def shape(x: np.ndarray) -> np.ndarray:
        return share * x / TYPICAL_ERROR + (1 - share) * np.sqrt(x / TYPICAL_ERROR)

    if not len(e):
        return Curve(0.0, 0.0)
    level = np.exp(np.average(np.log(k / shape(e)), weights=w))
    prior = np.array(_PRIOR_ERRORS)
    return _fit(
        np.r_[e, prior],
        np.r_[k, level * shape(prior)],
        np.r_[w, np.full(len(prior), PRIOR_CHUNKS)],
    )
