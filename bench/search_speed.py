"""Speeds that a search predicts for recipes beside those that are measured.

    python bench/search_speed.py MODEL [--imatrix M] [--recipes Q8_0,Q6_K,Q4_K_M,...] [--rounds 5]
        [--threads 2]

Each round measures the kernels of all types and then every recipe, in turn, so that a busy machine
is as busy for all; tables have medians over rounds, and the least and most measured. What no type
changes is taken from the first recipe (--calibrator), as a search takes it from the one that
`--min-tg` names: its own row agrees by construction.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import median

import apex_native as apex
from apex_native.allocation import SearchRequest
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.speed import (
    KernelCosts,
    Speed,
    SpeedModel,
    active_weights,
    measure_costs,
    measure_plan,
)
from apex_native.engine import Placement
from apex_native.imatrix import Importance, load_imatrix
from apex_native.machine import cpu_name
from apex_native.plan import is_tier_name
from apex_native.types import GgmlType

RECIPES = "Q4_K_M,Q8_0,Q6_K,Q5_K_M,Q3_K_M,Q2_K,IQ4_XS,IQ3_S,IQ2_S,i-compact"


def main() -> None:
    options = parsed()
    placement = Placement(n_threads=options.threads)
    names = list(dict.fromkeys([options.calibrator, *options.recipes.split(",")]))
    imatrix = load_imatrix(options.imatrix) if options.imatrix else None
    with apex.open_gguf(options.model) as source:
        summary = None if imatrix is None else Importance(imatrix, source.facts).summary()
        space = SearchSpace.of(source, summary, SearchRequest((), ()))
        plans = {
            name: space.fixed_plan(**({"tier": name} if is_tier_name(name) else {"ftype": name}))
            for name in names
        }
        types = sorted({t for plan in plans.values() for t in plan.types.values()}, key=str)
        types = [t for t in types if not t.is_float]
        rounds: dict[str, list[Speed]] = {name: [] for name in names}
        costs = []
        for _ in range(options.rounds):
            costs.append(measure_costs(types, placement))
            for name, plan in plans.items():
                rounds[name] += measure_plan(source, {name: (plan, imatrix)}, placement).values()
        used = source.facts.metadata[f"{source.facts.architecture}.expert_used_count"]
        assert isinstance(used, int)
        every = active_weights(space.classification, used)
    model = SpeedModel({name: every[name] for name in space.choices}, middle_costs(costs))
    measured = {name: middle(some) for name, some in rounds.items()}
    model = model.calibrated(plans[options.calibrator].types, measured[options.calibrator])
    print(f"{cpu_name()}, {options.threads} threads, {options.rounds} rounds\n")
    show({name: model.predict(plan.types) for name, plan in plans.items()}, measured, rounds)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--imatrix")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--calibrator", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def middle(speeds: list[Speed]) -> Speed:
    return Speed(median(s.generate for s in speeds), median(s.prompt for s in speeds))


def middle_costs(costs: list[KernelCosts]) -> KernelCosts:
    def of(rows: list[Mapping[GgmlType, float]]) -> dict[GgmlType, float]:
        return {type: median(row[type] for row in rows) for type in rows[0]}

    return KernelCosts(of([c.generate for c in costs]), of([c.prompt for c in costs]))


def show(
    predicted: Mapping[str, Speed],
    measured: Mapping[str, Speed],
    rounds: Mapping[str, list[Speed]],
) -> None:
    heads = ("predicted", "measured (least to most)", "ratio")
    print(f"| recipe | {' | '.join(f'{what} {head}' for what in ('tg', 'pp') for head in heads)} |")
    print("|---|---|---|---|---|---|---|")
    for name, expected in predicted.items():
        cells = [name]
        for what in ("generate", "prompt"):
            ours, theirs = getattr(expected, what), getattr(measured[name], what)
            every = [getattr(speed, what) for speed in rounds[name]]
            cells += [
                f"{ours:.0f}",
                f"{theirs:.0f} ({min(every):.0f} to {max(every):.0f})",
                f"{ours / theirs:.2f}",
            ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
