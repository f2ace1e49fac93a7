"""Allocation: the best types for a file size, found by measuring.

Input: a model, sizes, texts, an importance matrix. Output: a `SearchOutcome`, whose plans
`quantize` carries out as any other.
"""

from __future__ import annotations

from apex_native.allocation.default_texts import builtin_texts
from apex_native.allocation.differences import Difference
from apex_native.allocation.heatmap import save_bits
from apex_native.allocation.models import check_budgets, search, search_types
from apex_native.allocation.outcome import Baseline, BudgetOutcome, SearchOutcome
from apex_native.allocation.ranking import Ranked, Ranking, rank_strategies, uniform_types
from apex_native.allocation.recipe import recipe_text
from apex_native.allocation.request import EFFORTS, Effort, SearchRequest
from apex_native.allocation.speed import Speed
from apex_native.allocation.store import Probe, ProbeStore, Scores
from apex_native.allocation.strategies import STRATEGIES, Strategy
from apex_native.allocation.surface_plot import save_surface
from apex_native.allocation.texts import DomainText, TextSizes

__all__ = [
    "EFFORTS",
    "STRATEGIES",
    "Baseline",
    "BudgetOutcome",
    "Difference",
    "DomainText",
    "Effort",
    "Probe",
    "ProbeStore",
    "Ranked",
    "Ranking",
    "Scores",
    "SearchOutcome",
    "SearchRequest",
    "Speed",
    "Strategy",
    "TextSizes",
    "builtin_texts",
    "check_budgets",
    "rank_strategies",
    "recipe_text",
    "save_bits",
    "save_surface",
    "search",
    "search_types",
    "uniform_types",
]
