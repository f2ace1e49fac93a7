"""The last word: results and fixed recipes on the verify part, which nothing was chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from apex_native.allocation.fixed import FixedRecipe
from apex_native.allocation.outcome import Baseline, BudgetOutcome
from apex_native.allocation.provenance import search_facts
from apex_native.allocation.session import Measurement, ProbeSession
from apex_native.allocation.solve import Solution
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.texts import SearchText
from apex_native.allocation.verdict import kld_ratio, log_ppl_difference, standard_error
from apex_native.types import GgmlType

__all__ = ["Verifier"]

Types = Mapping[str, GgmlType]


class Verifier:
    """Measures results beside the fixed recipes that are not larger."""

    def __init__(
        self,
        space: SearchSpace,
        session: ProbeSession,
        text: SearchText,
        recipes: Sequence[FixedRecipe],
        step: Callable[[str], Callable[[float], None]],
    ) -> None:
        """Take the text, of which the verify part is used, and all recipes."""
        self._space, self._session, self._part = space, session, text.verify
        self._text_sha256 = text.sha256
        self._recipes = recipes
        self._step = step

    def verify(
        self,
        chosen: Sequence[tuple[int, Solution, float, int]],
        predict: Callable[[Types], float],
        n_baselines: int,
    ) -> list[BudgetOutcome]:
        """For each (budget, solution, KLD when chosen, solutions tried): outcome and verdict.

        Of the recipes that fit, the n_baselines best predicted are measured.
        """
        self._session.values.prepare_errors(
            [pair for recipe in self._recipes for pair in recipe.types.items()]
        )
        expected = {recipe.name: predict(recipe.types) for recipe in self._recipes}
        rivals = {
            budget: sorted(
                (recipe for recipe in self._recipes if recipe.nbytes <= budget),
                key=lambda recipe: expected[recipe.name],
            )
            for budget, *_ in chosen
        }
        needed = {recipe.name: recipe for some in rivals.values() for recipe in some[:n_baselines]}
        candidates: list[Types] = [self._changed(solution.types) for _, solution, _, _ in chosen]
        candidates += [recipe.types for recipe in needed.values()]
        found = self._session.measure(
            candidates, self._part, positions=True, progress=self._step("verifying")
        )
        ours = found[: len(chosen)]
        theirs = dict(zip(needed, found[len(chosen) :], strict=True))
        outcomes = []
        for (budget, solution, _, tried), measured in zip(chosen, ours, strict=True):
            baselines = [
                self._baseline(recipe, expected[recipe.name], measured, theirs.get(recipe.name))
                for recipe in rivals[budget]
            ]
            outcomes.append(
                self._outcome(budget, solution, predict, tried, measured, baselines, theirs)
            )
        return outcomes

    def _changed(self, types: Types) -> dict[str, GgmlType]:
        return {n: t for n, t in types.items() if t is not self._space.infos[n].type}

    def _baseline(
        self,
        recipe: FixedRecipe,
        predicted: float,
        ours: Measurement,
        theirs: Measurement | None,
    ) -> Baseline:
        if theirs is None:
            return Baseline(recipe.name, recipe.nbytes, predicted)
        return Baseline(
            recipe.name,
            recipe.nbytes,
            predicted,
            theirs.mean,
            kld_ratio(ours, theirs),
            log_ppl_difference(ours, theirs),
            _p999(theirs),
        )

    def _outcome(
        self,
        budget: int,
        solution: Solution,
        predict: Callable[[Types], float],
        tried: int,
        measured: Measurement,
        baselines: list[Baseline],
        theirs: Mapping[str, Measurement],
    ) -> BudgetOutcome:
        """The search's result, or the fixed recipe where it is not clearly better than that."""
        best = min(
            (b for b in baselines if b.kld_mean is not None),
            key=lambda b: b.kld_mean or 0.0,
            default=None,
        )
        ratio = None if best is None else best.ratio
        facts = search_facts(
            kld=measured.mean,
            kld_se=standard_error(measured),
            ratio=ratio,
            text_sha256=self._text_sha256,
            seed=self._space.request.seed,
        )
        plan, types, name = self._space.plan(solution.types, facts), solution.types, "search"
        if best is not None and ratio is not None and ratio.high >= 1:
            recipe = next(recipe for recipe in self._recipes if recipe.name == best.name)
            plan, types, name = recipe.plan, recipe.types, recipe.name
            measured = theirs[best.name]
        return BudgetOutcome(
            budget=budget,
            name=name,
            plan=plan,
            types=types,
            predicted=predict(types),
            kld_mean=measured.mean,
            kld_se=standard_error(measured),
            kld_p999=_p999(measured),
            ppl=float(np.exp(measured.nll.mean())),
            baselines=baselines,
            tried=tried,
            measured=measured,
        )


def _p999(measured: Measurement) -> float:
    """The KLD that one position in a thousand is above."""
    return float(np.quantile(measured.positions, 0.999))
