"""Rows by role: what is stored, how the weights look, what quantization cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from apex_native.types import Classification, ClassifiedTensor, GgmlType, Role

__all__ = [
    "ERROR_GROUPS",
    "RoleStatistics",
    "StoredRow",
    "grouped_errors",
    "role_statistics",
    "stored_rows",
]

ERROR_GROUPS: Mapping[str, frozenset[Role]] = {
    "experts": frozenset(role for role in Role if role.is_routed_expert),
    "shared": frozenset({Role.SHARED_EXPERT}),
    "attention+ssm": frozenset({Role.ATTENTION, Role.SSM}),
    "embedding/output": frozenset({Role.EMBEDDING, Role.OUTPUT}),
}
"""The roles a tier tells apart, for tables too narrow for all of them."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """All tensors of one role and type."""

    role: Role
    type: GgmlType
    n_tensors: int
    n_weights: int
    nbytes: int


def stored_rows(classification: Classification) -> tuple[StoredRow, ...]:
    """One row for each role and type, in the order of ``Role``, within it the largest first."""
    members: dict[tuple[Role, GgmlType], list[ClassifiedTensor]] = {}
    for tensor in classification.tensors:
        members.setdefault((tensor.role, tensor.info.type), []).append(tensor)
    rows = [
        StoredRow(
            role,
            type,
            len(tensors),
            sum(tensor.info.n_elements for tensor in tensors),
            sum(tensor.info.nbytes for tensor in tensors),
        )
        for (role, type), tensors in members.items()
    ]
    order = list(Role)
    return tuple(sorted(rows, key=lambda row: (order.index(row.role), -row.nbytes)))


class TensorStatistics(Protocol):
    """What `GgufFile.statistics` gives for a tensor."""

    @property
    def n(self) -> int: ...
    @property
    def rms(self) -> float: ...
    @property
    def max_abs(self) -> float: ...
    @property
    def kurtosis(self) -> float: ...
    @property
    def outlier_share(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RoleStatistics:
    """How the weights of one role look.

    rms, max_abs and outlier_share are those of all weights together. kurtosis is the mean over
    the tensors, weighted by their weights: tensors of different scale poured together would
    have a high kurtosis although each of them is Gaussian.
    """

    role: Role
    n_tensors: int
    n_weights: int
    rms: float
    max_abs: float
    kurtosis: float
    outlier_share: float


def role_statistics(
    tensors: Iterable[tuple[Role, TensorStatistics]],
) -> tuple[RoleStatistics, ...]:
    """One row for each role that occurs, in the order of ``Role``."""
    members: dict[Role, list[TensorStatistics]] = {}
    for role, statistics in tensors:
        members.setdefault(role, []).append(statistics)
    return tuple(_summary(role, members[role]) for role in Role if role in members)


def _summary(role: Role, tensors: list[TensorStatistics]) -> RoleStatistics:
    n_weights = sum(tensor.n for tensor in tensors)

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / n_weights

    return RoleStatistics(
        role=role,
        n_tensors=len(tensors),
        n_weights=n_weights,
        rms=math.sqrt(mean(t.n * t.rms**2 for t in tensors)),
        max_abs=max(t.max_abs for t in tensors),
        kurtosis=mean(t.n * t.kurtosis for t in tensors),
        outlier_share=mean(t.n * t.outlier_share for t in tensors),
    )


class TensorError(Protocol):
    """What a manifest records of a tensor."""

    @property
    def role(self) -> Role: ...
    @property
    def squared_error(self) -> float: ...
    @property
    def squared_weights(self) -> float: ...
    @property
    def type(self) -> GgmlType: ...
    @property
    def source_type(self) -> GgmlType: ...


def grouped_errors(tensors: Iterable[TensorError]) -> dict[str, float | None]:
    """Relative RMSE for each of ERROR_GROUPS, over the tensors that changed their type.

    sqrt(sum (w - q)^2 / sum w^2), as in a manifest; None for a group without such tensors.
    """
    changed = [tensor for tensor in tensors if tensor.type is not tensor.source_type]
    errors: dict[str, float | None] = {}
    for group, roles in ERROR_GROUPS.items():
        members = [tensor for tensor in changed if tensor.role in roles]
        weights = math.fsum(tensor.squared_weights for tensor in members)
        error = math.fsum(tensor.squared_error for tensor in members)
        errors[group] = math.sqrt(error / weights) if weights else None
    return errors
