"""Is a plan what its recipe's name promises?"""

from __future__ import annotations

from dataclasses import replace

from apex_native.plan.edges import default_edges
from apex_native.plan.model import Plan
from apex_native.plan.parts import PlanOptions

__all__ = ["has_other_types", "has_own_rules"]


def has_other_types(plan: Plan) -> bool:
    """Overrides or edges of its own give tensors other types than the recipe alone."""
    own_edges = plan.edges is not None and plan.edges != default_edges(plan.n_layer)[0]
    return own_edges or replace(plan.options, repair=False, override_kv=()) != PlanOptions()


def has_own_rules(plan: Plan) -> bool:
    """The same, or metadata of its own: the recipe alone does not make this file."""
    return has_other_types(plan) or plan.options != PlanOptions()
