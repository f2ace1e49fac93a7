"""What a search is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from apex_native.allocation.texts import DomainText, TextSizes
from apex_native.engine import Placement
from apex_native.types import GgmlType

__all__ = ["EFFORTS", "Effort", "SearchRequest"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: chunks of the parts, and candidates for each budget.

    candidates: solutions of the surrogate that are measured. recipes: fixed recipes, made to fit,
    that are measured with them. moves: rounds of local moves. look: chunks of the choose part that
    all of them are measured on. finalists: those best there, which the whole part decides between.
    baselines: fixed recipes that are measured beside the result, the best predicted first.
    """

    sizes: TextSizes = field(default_factory=TextSizes)
    candidates: int = 3
    recipes: int = 2
    moves: int = 1
    look: int = 12
    finalists: int = 3
    baselines: int = 3


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(
        TextSizes(fit=6, choose=16, verify=16, more=112),
        candidates=2,
        recipes=1,
        moves=1,
        look=8,
        baselines=2,
    ),
    "normal": Effort(),
    "thorough": Effort(
        TextSizes(fit=32, choose=80, verify=80, more=560),
        candidates=6,
        recipes=4,
        moves=4,
        look=40,
        finalists=3,
        baselines=6,
    ),
}
"""By name. normal is meant for some minutes on a small model, thorough for when it matters."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Budgets in bytes of the whole file, and the rules its types keep to.

    tensor_types: rules as `make_plan` takes them; what they name has no choice. floor: the least
    precise type, by bits per weight, of tensors that every token passes (attention, shared
    experts). together: gate and up of a layer's experts get one type. min_tg: the least speed of
    generation, tokens per second ("35") or a multiple of a fixed recipe's ("1.1x:Q4_K_M").
    surface: predict what other speeds would cost, too.
    """

    budgets: tuple[int, ...]
    texts: tuple[DomainText, ...]
    tensor_types: tuple[str, ...] = ()
    ladder: str = "all"
    floor: GgmlType | None = None
    together: bool = False
    min_tg: str | None = None
    surface: bool = False
    ctx: int = 512
    seed: int = 0
    effort: Effort = field(default_factory=Effort)
    placement: Placement = field(default_factory=Placement)
