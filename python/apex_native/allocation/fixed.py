"""The fixed recipes a result is compared with: all tiers and mixes that are not larger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from apex_native.allocation.space import SearchSpace
from apex_native.errors import PlanError
from apex_native.plan import Plan, tier_names
from apex_native.plan.ftypes import FileType
from apex_native.types import GgmlType

__all__ = ["FixedRecipe", "fixed_recipes"]

_MIXES = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "IQ4_NL"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    *("Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
)


@dataclass(frozen=True, slots=True)
class FixedRecipe:
    """A tier or mix made with the same importance matrix; types of the tensors that differ."""

    name: str
    plan: Plan
    types: Mapping[str, GgmlType]

    @property
    def nbytes(self) -> int:
        """Size of its file."""
        return self.plan.total_bytes


def fixed_recipes(space: SearchSpace) -> list[FixedRecipe]:
    """Every shipped tier and every mix that this model and matrix allow, largest first.

    With a matrix, a tier is taken in its variant that uses it; of recipes with equal types one.
    """
    found: dict[tuple[GgmlType, ...], FixedRecipe] = {}
    with_matrix = space.imatrix is not None
    for name in tier_names():
        if with_matrix and not name.startswith("i-") and f"i-{name}" in tier_names():
            continue
        _add(found, space, name, lambda name=name: space.fixed_plan(tier=name))  # type: ignore[misc]
    for mix in _MIXES:
        name = FileType.parse(mix).name
        _add(found, space, name, lambda name=name: space.fixed_plan(ftype=name))  # type: ignore[misc]
    return sorted(found.values(), key=lambda recipe: -recipe.nbytes)


def _add(
    found: dict[tuple[GgmlType, ...], FixedRecipe],
    space: SearchSpace,
    name: str,
    make: Callable[[], Plan],
) -> None:
    try:
        plan = make()
    except PlanError:
        return
    if plan.blocking_findings:
        return
    types = {
        tensor.name: tensor.type
        for tensor in plan.tensors
        if tensor.type is not space.infos[tensor.name].type
    }
    found.setdefault(tuple(tensor.type for tensor in plan.tensors), FixedRecipe(name, plan, types))
