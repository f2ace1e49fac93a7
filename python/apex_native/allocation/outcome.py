"""What a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apex_native.allocation.differences import Difference
from apex_native.allocation.session import Measurement
from apex_native.allocation.speed import Speed
from apex_native.allocation.verdict import Ratio
from apex_native.plan import Plan
from apex_native.types import GgmlType

__all__ = ["Baseline", "BudgetOutcome", "SearchOutcome", "best_of"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fixed recipe that is not larger, beside the result; ratio is the result's KLD over its.

    kld_mean, ratio, ln_ppl (the result's ln PPL less its) and kld_p999 are None where it was not
    measured: its prediction was far behind the best one's.
    """

    name: str
    nbytes: int
    predicted: float
    kld_mean: float | None = None
    ratio: Ratio | None = None
    ln_ppl: Ratio | None = None
    kld_p999: float | None = None


@dataclass(frozen=True, slots=True)
class BudgetOutcome:
    """The result of one budget: plan, numbers on the verify part, verdict.

    name: "search", or the fixed recipe that was not beaten. predicted: KLD the model of the search
    expected. kld_p999 is the 99.9 % quantile over positions. predicted_speed, measured_speed: where
    the request asks for speed.
    """

    budget: int
    name: str
    plan: Plan
    types: Mapping[str, GgmlType]
    predicted: float
    kld_mean: float
    kld_se: float
    kld_p999: float
    ppl: float
    baselines: Sequence[Baseline]
    tried: int
    measured: Measurement = field(repr=False)
    differences: Sequence[Difference] = ()
    """To the best fixed recipe."""
    predicted_speed: Speed | None = None
    measured_speed: Speed | None = None

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.plan.total_bytes

    @property
    def best_baseline(self) -> Baseline | None:
        """The measured fixed recipe of the least KLD."""
        return best_of(self.baselines)


def best_of(baselines: Sequence[Baseline]) -> Baseline | None:
    """The one of the least KLD, on the chunks it shares with the result; None without measured."""
    measured = [(b.ratio.value, b) for b in baselines if b.ratio is not None]
    return max(measured, key=lambda pair: pair[0])[1] if measured else None


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """Everything: outcomes by budget as they were given, and what they rest on."""

    budgets: Sequence[BudgetOutcome]
    report: Mapping[str, Any]
    """As JSON: units with curves, joint model, comparison of predictors, text, costs, settings."""
    seconds: float
