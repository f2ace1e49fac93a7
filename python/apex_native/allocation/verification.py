"""The last word: results and fixed recipes on the verify part, which nothing was chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.allocation.fixed import FixedRecipe
from apex_native.allocation.outcome import Baseline, BudgetOutcome, best_of
from apex_native.allocation.provenance import search_facts
from apex_native.allocation.session import Measurement, ProbeSession
from apex_native.allocation.solve import Solution
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.texts import Part, SearchText
from apex_native.allocation.verdict import kld_ratio, log_ppl_difference, standard_error
from apex_native.types import GgmlType

__all__ = ["Verifier"]

Types = Mapping[str, GgmlType]

IN_THE_CONTEST = 1.5
"""Recipes of up to so many times the best one's KLD are looked at again where a verdict is open."""


@dataclass(slots=True)
class _Contest:
    """A solution beside the fixed recipes that fit its budget: by name, both on the same chunks."""

    types: Types
    ours: Measurement
    pairs: dict[str, tuple[Measurement, Measurement]]
    n_looks: int

    def close(self) -> list[str]:
        """Recipes to read on for: none where the best one's interval leaves out 1."""
        means = {
            name: theirs.mean
            for name, (ours, theirs) in self.pairs.items()
            if ours is self.ours  # or it was left behind
        }
        if not means:
            return []
        best = min(means, key=lambda name: means[name])
        ratio = kld_ratio(*self.pairs[best], self.n_looks)
        if not ratio.low < 1 <= ratio.high:
            return []
        return [name for name, mean in means.items() if mean <= IN_THE_CONTEST * means[best]]


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
        """Take the text, of which verify part and reserve are used, and all recipes."""
        self._space, self._session, self._part = space, session, text.verify
        self._rounds = _rounds(text)
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

        Of the recipes that fit, the n_baselines best predicted are measured. Where the interval of
        the ratio to the best one includes 1, both are measured on more of the text as well.
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
        theirs = dict(zip(needed, found[len(chosen) :], strict=True))
        contests = [
            _Contest(
                types,
                ours,
                {r.name: (ours, theirs[r.name]) for r in rivals[budget] if r.name in theirs},
                1 + len(self._rounds),
            )
            for (budget, *_), types, ours in zip(chosen, candidates, found, strict=False)
        ]
        for part in self._rounds:
            self._read_on(contests, part)
        outcomes = []
        for (budget, solution, _, tried), contest in zip(chosen, contests, strict=True):
            baselines = [
                _baseline(recipe, expected[recipe.name], contest) for recipe in rivals[budget]
            ]
            outcomes.append(self._outcome(budget, solution, predict, tried, contest, baselines))
        return outcomes

    def _read_on(self, contests: Sequence[_Contest], part: Part) -> None:
        """Where an interval includes 1, both are measured on this part, too."""
        closes = [(contest, contest.close()) for contest in contests]
        names = list(dict.fromkeys(name for _, close in closes for name in close))
        if not names:
            return
        open_ones = [(contest, close) for contest, close in closes if close]
        types = {recipe.name: recipe.types for recipe in self._recipes}
        found = self._session.measure(
            [*(contest.types for contest, _ in open_ones), *(types[name] for name in names)],
            part, positions=True, progress=self._step("verifying what is open"),
        )  # fmt: skip
        more = dict(zip(names, found[len(open_ones) :], strict=True))
        for (contest, close), ours in zip(open_ones, found, strict=False):
            contest.ours = contest.ours.and_then(ours)
            for name in close:
                theirs = contest.pairs[name][1].and_then(more[name])
                contest.pairs[name] = (contest.ours, theirs)

    def _changed(self, types: Types) -> dict[str, GgmlType]:
        return {n: t for n, t in types.items() if t is not self._space.infos[n].type}

    def _outcome(
        self,
        budget: int,
        solution: Solution,
        predict: Callable[[Types], float],
        tried: int,
        contest: _Contest,
        baselines: list[Baseline],
    ) -> BudgetOutcome:
        """The search's result, or the fixed recipe where it is not clearly better than that."""
        measured = contest.ours
        best = best_of(baselines)
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
            measured = contest.pairs[best.name][1]
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


def _rounds(text: SearchText) -> list[Part]:
    """What is read on: twice as much as was read, then all there is."""
    n = 2 * text.verify.n_chunks
    return [part for part in (text.reserve.first(n), text.reserve.after(n)) if part.n_chunks]


def _baseline(recipe: FixedRecipe, predicted: float, contest: _Contest) -> Baseline:
    if recipe.name not in contest.pairs:
        return Baseline(recipe.name, recipe.nbytes, predicted)
    ours, theirs = contest.pairs[recipe.name]
    return Baseline(
        recipe.name,
        recipe.nbytes,
        predicted,
        theirs.mean,
        kld_ratio(ours, theirs, contest.n_looks),
        log_ppl_difference(ours, theirs),
        _p999(theirs),
    )


def _p999(measured: Measurement) -> float:
    """The KLD that one position in a thousand is above."""
    return float(np.quantile(measured.positions, 0.999))
