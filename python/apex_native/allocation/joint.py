"""From units to the whole model: how the parts of a solution add up, fitted on joint measurements.

KLD = c_q Q + c_s sqrt(sum S^2) (form "root") or c_q Q + c_s sum S (form "sum"), and a factor for
each kind of unit that says how much more, or less, it costs among others that are quantized than
alone. Single KLDs do not add up, by factors that differ between models and go both ways; a factor
stays near 1 unless joint measurements move it. Which form orders wholes better differs, too
(bench/search_surrogates.py compares them and others): a search measures solutions of both and of
the plain sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apex_native.allocation.solve import SUM, Link, TensorCosts
from apex_native.allocation.surrogate import Errors, Surrogate
from apex_native.types import GgmlType

__all__ = ["Joint", "JointModel", "fit_joint", "prediction_error"]

Form = Literal["root", "sum"]

PRIOR_STRENGTH = 0.3
"""Standard deviation, in ln, of what measurements must say to move a factor by itself."""

NEARBY = 0.7
"""Measurements at a KLD e^0.7 times another's count a third for it."""

_Q_S_LIMITS = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class Joint:
    """A whole solution and its measured KLD, nats."""

    types: Mapping[str, GgmlType]
    kld: float


@dataclass(frozen=True, slots=True)
class JointModel:
    """Factors of the kinds, and the link."""

    kinds: Mapping[str, float]
    link: Link

    def costs(self, surrogate: Surrogate, errors: Errors) -> TensorCosts:
        """What tensors cost under it."""
        scale = {unit.name: self.kinds.get(unit.kind, 1.0) for unit in surrogate.units}
        return TensorCosts(surrogate, errors, scale)


def fit_joint(
    surrogate: Surrogate,
    errors: Errors,
    joints: Sequence[Joint],
    *,
    near: float | None = None,
    form: Form = "root",
) -> JointModel:
    """The model that predicts the joints best, ratios counted; near: the KLD that matters most.

    Without joints every factor is 1.
    """
    from scipy.optimize import least_squares

    kinds = sorted({unit.kind for unit in surrogate.units})
    if not joints:
        return JointModel({}, Link() if form == "root" else SUM)
    q, s2, s = _parts_by_kind(surrogate, errors, joints, kinds)
    logs = np.log([max(joint.kld, 1e-12) for joint in joints])
    weights = np.ones(len(joints))
    if near is not None:
        weights = np.exp(-np.abs(logs - np.log(max(near, 1e-12))) / NEARBY)

    def residuals(x: np.ndarray) -> np.ndarray:
        c_q, c_s, factors = np.exp(x[0]), np.exp(x[1]), np.exp(x[2:])
        rough = np.sqrt(s2 @ factors**2) if form == "root" else s @ factors
        total = c_q * (q @ factors) + c_s * rough
        misses = weights * (np.log(np.maximum(total, 1e-12)) - logs)
        # The link is free but for keeping its two parts in sight of each other.
        pulls: np.ndarray = np.r_[
            misses, PRIOR_STRENGTH * x[2:], 0.2 * PRIOR_STRENGTH * (x[0] - x[1])
        ]
        return pulls

    low, high = np.log(_Q_S_LIMITS)
    found = least_squares(residuals, np.zeros(2 + len(kinds)), bounds=(low, high))
    factors = np.exp(found.x[2:])
    c_q, c_s = float(np.exp(found.x[0])), float(np.exp(found.x[1]))
    link = Link(c_q, c_s) if form == "root" else Link(c_q, 0.0, c_s)
    return JointModel(dict(zip(kinds, map(float, factors), strict=True)), link)


def _parts_by_kind(
    surrogate: Surrogate, errors: Errors, joints: Sequence[Joint], kinds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q, sum of S^2 and sum of S of every joint, by kind: (n_joints, n_kinds) each."""
    plain = TensorCosts(surrogate, errors)
    unit_of = surrogate.unit_of()
    q = np.zeros((len(joints), len(kinds)))
    s2, s = np.zeros_like(q), np.zeros_like(q)
    for row, joint in enumerate(joints):
        for name, type in joint.types.items():
            if name not in unit_of:
                continue
            column = kinds.index(unit_of[name].kind)
            part_q, part_s2, part_s = plain.parts(name, type)
            q[row, column] += part_q
            s2[row, column] += part_s2
            s[row, column] += part_s
    return q, s2, s


def prediction_error(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Of predictions that measurements were made for: mean ln ratio and its standard deviation."""
    logs = np.log(np.maximum(predicted, 1e-12)) - np.log(np.maximum(measured, 1e-12))
    return float(np.mean(logs)), float(np.std(logs))
