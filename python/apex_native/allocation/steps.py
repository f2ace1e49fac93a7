"""The search: probe, fit, solve, measure, choose, verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from apex_native.allocation.differences import differences
from apex_native.allocation.fitted import learn_fitted_shares
from apex_native.allocation.fixed import FixedRecipe, fixed_recipes
from apex_native.allocation.joint import Form, Joint, JointModel, fit_joint, prediction_error
from apex_native.allocation.neighbours import adapted, exchanged
from apex_native.allocation.outcome import BudgetOutcome, SearchOutcome
from apex_native.allocation.probing import ProbedUnits, probe_units
from apex_native.allocation.report import search_report
from apex_native.allocation.request import SearchRequest
from apex_native.allocation.session import Measurement, ProbeSession
from apex_native.allocation.solve import SUM, Link, Problem, Solution, TensorCosts, solve
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.speed_goal import SpeedGoal, surface
from apex_native.allocation.surrogate import Surrogate, fit_surrogate
from apex_native.allocation.tensor_shares import measure_tensors
from apex_native.allocation.texts import Part, SearchText
from apex_native.allocation.verification import Verifier
from apex_native.types import GgmlType

__all__ = ["Search", "SearchProgress"]

SearchProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is."""

Types = Mapping[str, GgmlType]
_FORMS: tuple[Form, Form] = ("sum", "root")
_Key = tuple[tuple[str, str], ...]

NEARLY_FITS = 1.02
"""Times the budget: the largest fixed recipe that is worth making smaller."""


@dataclass(slots=True)
class _Budget:
    """A budget on its way."""

    budget: int
    problem: Problem
    tried: dict[_Key, tuple[Solution, float]] = field(default_factory=dict)
    """Solutions that were measured on the beginning of the choose part, with their KLD."""
    finals: dict[_Key, tuple[Solution, float]] = field(default_factory=dict)
    """The best of them, with their KLD on the whole of it."""

    def best(self) -> tuple[Solution, float]:
        """The solution of the least measured KLD."""
        return self.leading(1)[0] if not self.finals else _sorted(self.finals)[0]

    def leading(self, n: int) -> list[tuple[Solution, float]]:
        """The n best of those that were tried."""
        return _sorted(self.tried)[:n]


class Search:
    """One search; `run` does it all."""

    def __init__(
        self,
        space: SearchSpace,
        session: ProbeSession,
        text: SearchText,
        progress: SearchProgress | None = None,
        goal: SpeedGoal | None = None,
    ) -> None:
        """Take what was prepared; PlanError where a budget or the goal cannot be met."""
        self.space, self.session, self.text = space, session, text
        self.request: SearchRequest = space.request
        self._progress = progress
        self._started = time.monotonic()
        self._goal = goal
        self._budgets = [_Budget(budget, self._problem(budget)) for budget in self.request.budgets]
        self._joints: list[Joint] = []
        self._recipes = fixed_recipes(space)

    def run(self) -> SearchOutcome:
        """Everything; resumable through the session's store."""
        self._errors()
        self.probed = self._probe()
        self.surrogate = self._fitted()
        self.surrogate = replace(self.surrogate, weights=self._tensor_weights())
        self._first_joints()
        n_fitted = len(self._joints)
        self._choose("choosing", [*self._first_candidates(), *self._recipe_candidates()])
        held_out = self._held_out(n_fitted)
        for _ in range(self.request.effort.moves):
            self._choose("choosing around the best", self._refined_candidates())
        self._decide()
        outcomes = self._verify(self._recipes)
        report = search_report(self.probed, self.surrogate, self._model(), held_out, self.session)
        seconds = time.monotonic() - self._started
        return SearchOutcome(outcomes, {**report, "surface": self._surface()}, seconds)

    def _problem(self, budget: int) -> Problem:
        problem = self.space.problem(budget)
        return problem if self._goal is None else self._goal.problem(problem)

    # --- measuring ------------------------------------------------------------------------------

    def _errors(self) -> None:
        wanted = [
            (name, type)
            for name, types in self.space.choices.items()
            for type in types
            if type is not self.space.infos[name].type
        ]
        self._say("weight errors", 0.0)
        self.session.values.prepare_errors(wanted)
        self._say("weight errors", 1.0)
        if self.session.values.hessian is not None:
            learn_fitted_shares(self.space, self.session, self._step("fitting"))

    def _probe(self) -> ProbedUnits:
        return probe_units(
            self.space, self.session, self.text, progress=self._step("probing units")
        )

    def _fitted(self, seed: int | None = None) -> Surrogate:
        """Curves of what was probed; with a seed, of chunks drawn with replacement."""
        return fit_surrogate(self.probed.data(seed), self.session.values.weight_error)

    def _tensor_weights(self) -> dict[str, float]:
        """On half of the fit part: what is asked is a share of what was measured on all of it."""
        half = self.text.fit.first(max(1, self.text.fit.n_chunks // 2))
        return measure_tensors(
            self.space, self.session, half, self.probed.weights, self.surrogate,
            self._step("probing tensors"),
        )  # fmt: skip

    def _measure(self, what: str, candidates: Sequence[Types], part: Part) -> list[Measurement]:
        changed = [self._changed(types) for types in candidates]
        return self.session.measure(changed, part, progress=self._step(what))

    def _changed(self, types: Types) -> dict[str, GgmlType]:
        return {n: t for n, t in types.items() if t is not self.space.infos[n].type}

    def _weighted(self, measured: Measurement, part: Part) -> float:
        return float(np.mean(measured.kld * self.probed.weights.of(part)))

    # --- solving --------------------------------------------------------------------------------

    def _costs(self, model: JointModel, surrogate: Surrogate | None = None) -> TensorCosts:
        return model.costs(surrogate or self.surrogate, self.session.values.weight_error)

    def _model(self, near: float | None = None, form: Form = "sum") -> JointModel:
        errors = self.session.values.weight_error
        return fit_joint(self.surrogate, errors, self._joints, near=near, form=form)

    def _first_joints(self) -> None:
        """What the plain surrogate would choose, measured: the link is fitted on it."""
        costs = self._costs(JointModel({}, SUM))
        found = [solve(budget.problem, costs, SUM, exact=False) for budget in self._budgets]
        types = _distinct([solution.types for solution in found] + self._spread())
        kld = self._klds("joint measurements", types, self.text.fit)
        self._joints = [Joint(one, kld[_key(one)]) for one in types]

    def _spread(self) -> list[Types]:
        """Uniform choices around a single budget, so that the link has something to go by."""
        if len(self._budgets) > 3:
            return []
        stand_ins = self.space.probe_types((GgmlType.Q5_K, GgmlType.Q4_K, GgmlType.Q3_K))
        return [{name: types[i] for name, types in stand_ins.items()} for i in range(3)]

    def _first_candidates(self) -> list[tuple[_Budget, Solution]]:
        """For each budget: by the plain sum, by both forms of the joint model, by resampled fits.

        Factors of kinds order wholes better on some texts and worse on others; what resampling
        moves is the plain sum, which has nothing to overfit.
        """
        n = self.request.effort.candidates
        plain = JointModel({}, SUM)
        models: list[JointModel] = [plain, *(self._model(form=form) for form in _FORMS)]
        ways = [(model, self._costs(model)) for model in models]
        for i in range(n - len(models)):
            fit = replace(self._fitted(self.request.seed + 1 + i), weights=self.surrogate.weights)
            ways.append((plain, self._costs(plain, fit)))
        return [
            (budget, solve(budget.problem, costs, model.link, exact=i < len(models)))
            for budget in self._budgets
            for i, (model, costs) in enumerate(ways[: max(n, 1)])
        ]

    def _recipe_candidates(self) -> list[tuple[_Budget, Solution]]:
        """For each budget the fixed recipes that promise most, made to fit it."""
        costs = self._costs(JointModel({}, SUM))
        wanted = [pair for recipe in self._recipes for pair in recipe.types.items()]
        self.session.values.prepare_errors(wanted)
        ranked = sorted(self._recipes, key=lambda recipe: SUM(*costs.totals(recipe.types)))
        candidates = []
        for budget in self._budgets:
            most = NEARLY_FITS * budget.budget
            close = [recipe.plan.types for recipe in ranked if recipe.nbytes <= most]
            for types in close[: self.request.effort.recipes]:
                solution = adapted(budget.problem, costs, SUM, types)
                if solution is not None:
                    candidates.append((budget, solution))
        return candidates

    def _refined_candidates(self) -> list[tuple[_Budget, Solution]]:
        """Solved again under the models that measurements near the budget's own KLD give.

        Bytes are exchanged between tensors of the best that was measured, at most one type each,
        under both forms; under the root's everything is open, too.
        """
        candidates = []
        for budget in self._budgets:
            best, kld = budget.best()
            for form in _FORMS:
                model = self._model(kld, form)
                costs = self._costs(model)
                found = [exchanged(budget.problem, costs, model.link, best.types)]
                if form == "root":
                    found.append(solve(budget.problem, costs, model.link))
                candidates += [(budget, one) for one in found if one is not None]
        return candidates

    def _choose(self, what: str, candidates: Sequence[tuple[_Budget, Solution]]) -> None:
        """Measure on the choose part what was not measured there before."""
        new = [
            (budget, solution)
            for budget, solution in candidates
            if _key(solution.types) not in budget.tried
        ]
        types = _distinct([solution.types for _, solution in new])
        kld = self._klds(what, types, self.text.choose.first(self.request.effort.look))
        for budget, solution in new:
            key = _key(solution.types)
            budget.tried[key] = (solution, kld[key])
        self._joints += [Joint(one, kld[_key(one)]) for one in types]

    def _decide(self) -> None:
        """Between the best few of each budget, on all of the choose part."""
        effort, n_all = self.request.effort, self.text.choose.n_chunks
        finals = [
            (budget, one, seen)
            for budget in self._budgets
            for one, seen in budget.leading(effort.finalists)
        ]
        rest = self.text.choose.after(effort.look)
        if not rest.n_chunks:
            return
        types = _distinct([solution.types for _, solution, _ in finals])
        kld = self._klds("deciding", types, rest)
        for budget, solution, seen in finals:
            key = _key(solution.types)
            total = seen * (n_all - rest.n_chunks) + kld[key] * rest.n_chunks
            budget.finals[key] = (solution, total / n_all)

    def _klds(self, what: str, types: Sequence[Types], part: Part) -> dict[_Key, float]:
        measured = self._measure(what, types, part)
        return {_key(one): self._weighted(m, part) for one, m in zip(types, measured, strict=True)}

    def _held_out(self, n_fitted: int) -> dict[str, tuple[float, float]]:
        """How well predictors that saw the fit part only foretold the choose part."""
        joints = self._joints[n_fitted:]
        errors, seen = self.session.values.weight_error, self._joints[:n_fitted]
        models = {
            "sum of single KLDs": JointModel({}, SUM),
            "Q + sqrt(sum S^2)": JointModel({}, Link()),
            "sum, factors of kinds": fit_joint(self.surrogate, errors, seen, form="sum"),
            "root, factors of kinds": fit_joint(self.surrogate, errors, seen, form="root"),
        }
        measured = [joint.kld for joint in joints]
        found = {}
        for name, model in models.items():
            costs = self._costs(model)
            predicted = [model.link(*costs.totals(joint.types)) for joint in joints]
            found[name] = prediction_error(predicted, measured)
        return found

    # --- verifying ------------------------------------------------------------------------------

    def _verify(self, recipes: Sequence[FixedRecipe]) -> list[BudgetOutcome]:
        recipes = [recipe for recipe in recipes if self._is_fast_enough(recipe)]
        verifier = Verifier(self.space, self.session, self.text, recipes, self._step)
        model = self._model()
        costs = self._costs(model)
        chosen = [(budget.budget, *budget.best(), len(budget.tried)) for budget in self._budgets]

        def predict(types: Types) -> float:
            return model.link(*costs.totals(types))

        found = verifier.verify(chosen, predict, self.request.effort.baselines)
        return [self._explained(outcome, recipes, costs) for outcome in found]

    def _explained(
        self, outcome: BudgetOutcome, recipes: Sequence[FixedRecipe], costs: TensorCosts
    ) -> BudgetOutcome:
        """With what it does otherwise than the best fixed recipe, and its predicted speed."""
        goal, best = self._goal, outcome.best_baseline
        speed = None if goal is None else goal.model.predict(outcome.types)
        others = next((r.plan.types for r in recipes if best and r.name == best.name), None)
        found = differences(self.space, costs, outcome.plan.types, others) if others else ()
        return replace(outcome, predicted_speed=speed, differences=found)

    def _is_fast_enough(self, recipe: FixedRecipe) -> bool:
        goal = self._goal
        if goal is None or goal.least is None:
            return True
        return goal.model.predict(recipe.plan.types).generate >= goal.least

    def _surface(self) -> list[dict[str, float]]:
        """Size, KLD and speed that could be had, predicted."""
        if self._goal is None or not self.request.surface:
            return []
        model = self._model()
        points = surface(
            self.space, self._goal, self.request.budgets, self._costs(model), model.link
        )
        return [asdict(point) for point in points]

    # --- progress -------------------------------------------------------------------------------

    def _say(self, what: str, share: float) -> None:
        if self._progress is not None:
            self._progress(what, share)

    def _step(self, what: str) -> Callable[[float], None]:
        return lambda share: self._say(what, share)


def _sorted(found: Mapping[_Key, tuple[Solution, float]]) -> list[tuple[Solution, float]]:
    return sorted(found.values(), key=lambda pair: pair[1])


def _key(types: Types) -> _Key:
    return tuple(sorted((name, type.name) for name, type in types.items()))


def _distinct(all_types: Sequence[Types]) -> list[Types]:
    seen: dict[_Key, Types] = {}
    for types in all_types:
        seen.setdefault(_key(types), types)
    return list(seen.values())
