"""Ways to foretell the KLD of a whole from measurements of its parts, on wholes none was fitted to.

    python bench/search_surrogates.py MODEL --imatrix M -f TEXT [-f TEXT...] [--keep STORE]
        [-o bench/results/search_surrogates.md]

All ways share the units' curves (two types each, measured alone on the fit part) and differ in what
makes a whole of them:

additive: the sum. Q + S: the sum of the smooth parts and the root of the squares of the others.
link: Q + S with a factor for each, fitted to wholes that were measured on the fit part; joint
model: a factor for each kind of unit as well; sum with kinds: the sum with a factor for each kind.
kinds left out: also fitted to two of the wholes with each kind in turn returned to the source.
leave-one-out: units weigh what returning each to the source saves at an operating point (a solution
of the middle size), scaled to what that costs.
Aumann-Shapley: units weigh their marginals at two nodes of the path from the source to everything
in the lower probed type (a quarter and three quarters of the units replaced, in a drawn order),
under D = c (1 - exp(-sum b)), c and the scale fitted to nodes and corner.

Judged on the choose part: solutions of eight sizes, every fixed recipe. Cost: chunks computed
beyond the probes. Both texts are short; the order of neighbours is within noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

import apex_native as apex
from apex_native.allocation import DomainText, ProbeStore, SearchRequest
from apex_native.allocation.fixed import fixed_recipes
from apex_native.allocation.joint import Joint, JointModel, fit_joint
from apex_native.allocation.probing import ANCHORS, ProbedUnits, probe_units
from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.allocation.solve import Link, TensorCosts, solve
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.surrogate import Surrogate, fit_surrogate, unit_error
from apex_native.allocation.texts import Part, split_texts
from apex_native.allocation.units import Unit
from apex_native.engine import Placement
from apex_native.imatrix import Importance, load_imatrix, read_text
from apex_native.types import GgmlType

Types = Mapping[str, GgmlType]
Predict = Callable[[Types], float]

SHARES = (0.42, 0.36, 0.32, 0.29, 0.26, 0.235, 0.21, 0.19)
"""Sizes of the solutions, of the source's: about Q6_K to IQ2_M."""

OPERATING = 3
NODES = (0.25, 0.75)
SEED = 0


class Measured:
    """Domains weighted as in a search."""

    def __init__(self, session: ProbeSession, space: SearchSpace, probed: ProbedUnits) -> None:
        self._session, self._space, self._weights = session, space, probed.weights

    def __call__(self, candidates: Sequence[Types], part: Part) -> list[float]:
        own = {name: info.type for name, info in self._space.infos.items()}
        changed = [{n: t for n, t in types.items() if t is not own[n]} for types in candidates]
        found = self._session.measure(changed, part)
        return [float(np.mean(one.kld * self._weights.of(part))) for one in found]


def main() -> None:
    options = parsed()
    imatrix = load_imatrix(options.imatrix)
    placement = Placement(n_threads=options.threads)
    texts = tuple(DomainText(Path(p).name, read_text([Path(p)])) for p in options.text)
    with apex.open_gguf(options.model) as source:
        size = sum(path.stat().st_size for path in source.shard_paths)
        request = SearchRequest(
            tuple(int(share * size) for share in SHARES), texts, placement=placement
        )
        space = SearchSpace.of(source, Importance(imatrix, source.facts).summary(), request)
        with (
            ProbeStore(options.keep) as store,
            ProbeSession(source, imatrix, store, SessionSettings(512, placement)) as session,
        ):
            text = split_texts(
                texts, session.model, ctx=512, sizes=request.effort.sizes, seed=request.seed
            )
            probed = probe_units(space, session, text)
            surrogate = fit_surrogate(probed.data(), session.values.weight_error)
            measure = Measured(session, space, probed)
            lab = Lab(space, session, surrogate, measure, text.fit.first(options.chunks))
            rows = lab.compare(text.choose.first(options.chunks))
    report = table(rows, options.chunks)
    print(report)
    if options.output:
        Path(options.output).write_text(report)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("-f", "--text", action="append", required=True)
    parser.add_argument("--chunks", type=int, default=8, help="of each part")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", help="store of probes")
    parser.add_argument("-o", "--output")
    return parser.parse_args()


class Lab:
    """Fits every way on the fit part."""

    def __init__(
        self,
        space: SearchSpace,
        session: ProbeSession,
        surrogate: Surrogate,
        measure: Measured,
        fit: Part,
    ) -> None:
        self.space, self.session, self.surrogate = space, session, surrogate
        self.measure, self.fit = measure, fit
        self.plain = TensorCosts(surrogate, session.values.weight_error)
        self.units: tuple[Unit, ...] = space.units

    def solutions(self) -> list[Types]:
        return [
            solve(self.space.problem(budget), self.plain, Link(), exact=False).types
            for budget in self.space.request.budgets
        ]

    def compare(self, held_out: Part) -> list[tuple[str, int, list[float], list[float]]]:
        """Name, cost in chunks, predictions, measurements."""
        solutions = self.solutions()
        fitted = self.measure(solutions, self.fit)
        joints = [Joint(t, k) for t, k in zip(solutions, fitted, strict=True)]
        n = self.fit.n_chunks
        left_out = [*joints, *self.without_kinds(joints)]
        more = (8 + 2 * len(self.kinds())) * n
        ways: list[tuple[str, int, Predict]] = [
            ("additive", 0, lambda types: self.additive(self.plain, types)),
            ("Q + S", 0, lambda types: Link()(*self.plain.totals(types))),
            ("link on eight wholes", 8 * n, self.linked(joints, kinds=False)),
            ("joint model on eight wholes", 8 * n, self.linked(joints, kinds=True)),
            ("joint model, kinds left out", more, self.linked(left_out, kinds=True)),
            ("sum with kinds", 8 * n, self.kind_sums(joints)),
            ("sum with kinds, kinds left out", more, self.kind_sums(left_out)),
            (
                "leave-one-out",
                (1 + len(self.units)) * n,
                self.leave_one_out(solutions[OPERATING], fitted[OPERATING]),
            ),
            (
                "Aumann-Shapley, two nodes",
                (len(NODES) * (1 + len(self.units)) + 1) * n,
                self.shapley(),
            ),
        ]
        recipes = [recipe.types for recipe in fixed_recipes(self.space)]
        judged = [*self.solutions_of(joints), *recipes]
        measured = self.measure(judged, held_out)
        return [(name, cost, [way(t) for t in judged], measured) for name, cost, way in ways]

    def solutions_of(self, joints: Sequence[Joint]) -> list[Types]:
        return [joint.types for joint in joints]

    def kinds(self) -> list[str]:
        return sorted({unit.kind for unit in self.units})

    def without_kinds(self, joints: Sequence[Joint]) -> list[Joint]:
        """Two solutions with every kind of unit returned to the source in turn, measured."""
        own = {name: info.type for name, info in self.space.infos.items()}
        wholes: list[Types] = []
        for joint in (joints[OPERATING], joints[-2]):
            for kind in self.kinds():
                names = {n for unit in self.units if unit.kind == kind for n in unit.tensors}
                wholes.append({n: own[n] if n in names else t for n, t in joint.types.items()})
        found = self.measure(wholes, self.fit)
        return [Joint(types, kld) for types, kld in zip(wholes, found, strict=True)]

    def kind_sums(self, joints: Sequence[Joint]) -> Predict:
        """Drawn to one factor for all as the joint model's are."""
        kind_of = {name: unit.kind for unit in self.units for name in unit.tensors}
        kinds = self.kinds()

        def parts(types: Types) -> np.ndarray:
            found = np.zeros(len(kinds))
            for name, type in types.items():
                if name in kind_of:
                    found[kinds.index(kind_of[name])] += self.plain.additive(name, type)
            return found

        rows = np.array([parts(joint.types) for joint in joints])
        logs = np.log([joint.kld for joint in joints])

        def misses(x: np.ndarray) -> np.ndarray:
            found: np.ndarray = np.r_[np.log(rows @ np.exp(x[0] + x[1:])) - logs, 0.3 * x[1:]]
            return found

        x = least_squares(misses, np.zeros(1 + len(kinds))).x
        factors = np.exp(x[0] + x[1:])
        return lambda types: float(parts(types) @ factors)

    def additive(self, costs: TensorCosts, types: Types) -> float:
        return sum(costs.additive(name, type) for name, type in types.items())

    def linked(self, joints: Sequence[Joint], *, kinds: bool) -> Predict:
        if kinds:
            model = fit_joint(self.surrogate, self.session.values.weight_error, joints)
        else:
            model = JointModel({}, self._link_alone(joints))
        costs = model.costs(self.surrogate, self.session.values.weight_error)
        return lambda types: model.link(*costs.totals(types))

    def _link_alone(self, joints: Sequence[Joint]) -> Link:
        parts = np.array([self.plain.totals(joint.types) for joint in joints])
        logs = np.log([joint.kld for joint in joints])

        def misses(x: np.ndarray) -> np.ndarray:
            total = np.exp(x[0]) * parts[:, 0] + np.exp(x[1]) * np.sqrt(parts[:, 1])
            found: np.ndarray = np.r_[np.log(total) - logs, 0.06 * (x[0] - x[1])]
            return found

        x = least_squares(misses, np.zeros(2)).x
        return Link(float(np.exp(x[0])), float(np.exp(x[1])))

    def leave_one_out(self, types: Types, kld: float) -> Predict:
        """Units weigh what each saves where it returns to the source."""
        own = {name: info.type for name, info in self.space.infos.items()}
        without = [
            {n: own[n] if n in unit.tensors else t for n, t in types.items()} for unit in self.units
        ]
        saved = kld - np.array(self.measure(without, self.fit))
        costs = self._weighted(saved, types)
        scale = kld / self.additive(costs, types)
        return lambda other: scale * self.additive(costs, other)

    def shapley(self) -> Predict:
        stand_ins = self.space.probe_types(ANCHORS)
        corner = {name: types[-1] for name, types in stand_ins.items()}
        own = {name: info.type for name, info in self.space.infos.items()}
        order = np.random.default_rng(SEED).permutation(len(self.units))
        marginals, paths = np.zeros(len(self.units)), []
        for node in NODES:
            inside = set(order[: round(node * len(self.units))].tolist())
            sets = [inside, *(inside ^ {i} for i in range(len(self.units)))]
            candidates = [
                {
                    name: corner[name] if i in some else own[name]
                    for i, unit in enumerate(self.units)
                    for name in unit.tensors
                }
                for some in sets
            ]
            found = np.array(self.measure(candidates, self.fit))
            signs = np.array([-1.0 if i in inside else 1.0 for i in range(len(self.units))])
            marginals += signs * (found[1:] - found[0]) / len(NODES)
            paths.append((inside, float(found[0])))
        (whole,) = self.measure([corner], self.fit)
        paths.append((set(range(len(self.units))), whole))
        marginals = np.maximum(marginals, 1e-3 * marginals.max())
        costs = self._weighted(marginals, corner)
        c, scale = self._saturation(marginals, paths)
        return lambda types: c * (1 - np.exp(-scale * self.additive(costs, types) / c))

    @staticmethod
    def _saturation(
        marginals: np.ndarray, paths: list[tuple[set[int], float]]
    ) -> tuple[float, float]:
        sums = np.array([marginals[sorted(inside)].sum() for inside, _ in paths])
        logs = np.log([kld for _, kld in paths])

        def misses(x: np.ndarray) -> np.ndarray:
            c, scale = np.exp(x)
            found: np.ndarray = np.log(c * (1 - np.exp(-scale * sums / c))) - logs
            return found

        c, scale = np.exp(least_squares(misses, np.log([4 * sums[-1], 1.0])).x)
        return float(c), float(scale)

    def _weighted(self, attributed: np.ndarray, types: Types) -> TensorCosts:
        """Curves scaled so that each unit costs in these types what is attributed to it."""
        scale = {}
        for unit, value in zip(self.units, attributed, strict=True):
            error = unit_error(unit, types, self.session.values.weight_error)
            alone = self.surrogate.curves[unit.name](error)
            # Noise may make a saving negative; a tenth of what the unit costs alone is the least.
            scale[unit.name] = max(float(value) / alone, 0.1) if alone > 0 else 1.0
        return TensorCosts(self.surrogate, self.session.values.weight_error, scale)


def table(rows: Sequence[tuple[str, int, list[float], list[float]]], chunks: int) -> str:
    lines = [
        "| way | chunks beyond probes | mean ln (pred./meas.) | scatter | about line | rank |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost, predicted, measured in rows:
        logs = np.log(np.maximum(predicted, 1e-12)) - np.log(measured)
        rank = spearmanr(predicted, measured).statistic
        # A way may be wrong by a power of the KLD and still order wholes rightly.
        slope, offset = np.polyfit(np.log(predicted), np.log(measured), 1)
        about = (np.log(measured) - slope * np.log(predicted) - offset).std()
        lines.append(
            f"| {name} | {cost} | {logs.mean():+.3f} | {logs.std():.3f} | {about:.3f} "
            f"| {rank:.4f} |"
        )
    n = len(rows[0][3])
    low, high = min(rows[0][3]), max(rows[0][3])
    head = f"{n} wholes of KLD {low:.4f} to {high:.4f}, {chunks} chunks of the choose part\n\n"
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
