"""Two plans for the same model, side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from apex_native.plan import Plan
from apex_native.types import GgmlType, Role

__all__ = ["PlanComparison", "RoleBytes", "TypeChange", "compare_plans"]


@dataclass(frozen=True, slots=True)
class RoleBytes:
    """Bytes of one role in this plan and in the other."""

    role: Role
    nbytes: int
    other_nbytes: int


@dataclass(frozen=True, slots=True)
class TypeChange:
    """n_tensors of a role that have ``type`` here and ``other_type`` there."""

    role: Role
    type: GgmlType | None
    other_type: GgmlType | None
    n_tensors: int


@dataclass(frozen=True, slots=True)
class PlanComparison:
    """What differs: rows by role, and the changes of type, most frequent first."""

    n_tensors: int
    total_bytes: int
    other_total_bytes: int
    roles: tuple[RoleBytes, ...]
    changes: tuple[TypeChange, ...]

    def summary(self) -> str:
        """The changes in a line: ``expert_down Q6_K (other: Q4_K) ×10, …``."""
        return ", ".join(
            f"{change.role.value} {change.type} (there {change.other_type}) ×{change.n_tensors}"
            for change in self.changes
        )


def compare_plans(plan: Plan, other: Plan) -> PlanComparison:
    """Compare plans tensor by tensor and role by role."""
    roles = {tensor.name: tensor.role for tensor in (*other.tensors, *plan.tensors)}
    differences = plan.differences(other)
    changes = Counter((roles[row.name], row.type, row.other_type) for row in differences)
    theirs = {row.role: row.nbytes for row in other.summary_by_role()}
    ours = {row.role: row.nbytes for row in plan.summary_by_role()}
    return PlanComparison(
        n_tensors=len(differences),
        total_bytes=plan.total_bytes,
        other_total_bytes=other.total_bytes,
        roles=tuple(
            RoleBytes(role, ours.get(role, 0), theirs.get(role, 0))
            for role in Role
            if role in ours or role in theirs
        ),
        changes=tuple(TypeChange(*key, n_tensors) for key, n_tensors in changes.most_common()),
    )
