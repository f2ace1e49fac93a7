"""How fast a choice of types is: the weights a token passes, times what a weight costs here.

What a weight costs is measured by `bench kernels`' kernels, in a stream from memory for tokens that
are generated, from the cache for those of a prompt (on a GPU as products of 1 and 512 columns).
What no type changes (attention over the cache, norms, starting kernels) is one number, the
difference to a model that was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from apex_native.engine import Placement
from apex_native.errors import PlanError
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.planned_model import PlannedModel
from apex_native.evaluation.speed import SpeedSettings, measure_kernels, measure_models
from apex_native.gguf import GgufFile
from apex_native.imatrix import Hessian, Imatrix
from apex_native.machine import usable_threads
from apex_native.plan import FileType, Plan, is_tier_name
from apex_native.types import Classification, GgmlType, Role

__all__ = [
    "KernelCosts",
    "MinSpeed",
    "Speed",
    "SpeedModel",
    "active_weights",
    "measure_costs",
    "measure_plan",
    "parse_min_speed",
]

REPETITIONS = 3
SAMPLE_SECONDS = 0.05
IN_CACHE = 1 << 16
"""Bytes of the working set of a prompt's products: weights are met again for every token."""

GENERATED, READ = 32, 256
"""Tokens of the speed tests."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, generating and reading."""

    generate: float
    prompt: float


@dataclass(frozen=True, slots=True)
class KernelCosts:
    """Seconds a weight, by type: for a generated token and for one of a prompt."""

    generate: Mapping[GgmlType, float]
    prompt: Mapping[GgmlType, float]


def measure_costs(types: Sequence[GgmlType], placement: Placement) -> KernelCosts:
    """What a weight of each type costs on the device that computes; some seconds.

    Raises ApexError where a kernel computes something wrong.
    """
    one, many = ("mat_mul_1", "mat_mul_512") if placement.on_gpu else ("vec_dot", "vec_dot")
    n_threads = placement.n_threads or usable_threads()

    def cost(operation: str, working_set: int | None, columns: int) -> dict[GgmlType, float]:
        rows = measure_kernels(
            types,
            device="cuda" if placement.on_gpu else "cpu",
            n_threads=(n_threads,),
            repetitions=REPETITIONS,
            sample_seconds=SAMPLE_SECONDS,
            working_set=working_set,
            operations=(operation,),
        )
        return {row.type: 1.0 / (row.median * columns) for row in rows}

    if placement.on_gpu:
        return KernelCosts(cost(one, None, 1), cost(many, None, 512))
    return KernelCosts(cost(one, None, 1), cost(many, IN_CACHE * n_threads, 1))


def active_weights(classification: Classification, n_used: int) -> dict[str, float]:
    """Weights of each tensor that a token passes: n_used experts of a stack, one embedding.

    An embedding that is the output as well counts whole; prediction blocks and projectors not.
    """
    has_output = any(tensor.role is Role.OUTPUT for tensor in classification.tensors)
    active = {}
    for tensor in classification.tensors:
        n = float(tensor.info.n_elements)
        slices = tensor.info.n_expert_slices
        if tensor.is_mtp or tensor.role in (Role.MTP, Role.PROJECTOR):
            n = 0.0
        elif slices > 1:
            n *= min(n_used, slices) / slices
        elif tensor.role is Role.EMBEDDING and has_output:
            n = float(tensor.info.n_per_row)
        active[tensor.name] = n
    return active


@dataclass(frozen=True, slots=True)
class SpeedModel:
    """Seconds a token: fixed ones, and those of the weights it passes."""

    active: Mapping[str, float]
    costs: KernelCosts
    fixed_generate: float = 0.0
    fixed_prompt: float = 0.0
    scale_generate: float = 1.0
    scale_prompt: float = 1.0

    def seconds(self, name: str, type: GgmlType) -> float:
        """What a tensor adds to the time of a generated token."""
        cost = self.costs.generate.get(type, 0.0)
        return self.scale_generate * self.active.get(name, 0.0) * cost

    def predict(self, types: Mapping[str, GgmlType]) -> Speed:
        """Tokens per second of a choice."""
        generate = self.fixed_generate + sum(self.seconds(n, t) for n, t in types.items())
        prompt = self.fixed_prompt + self.scale_prompt * sum(
            self.active.get(n, 0.0) * self.costs.prompt.get(t, 0.0) for n, t in types.items()
        )
        return Speed(1.0 / generate, 1.0 / prompt)

    def calibrated(self, types: Mapping[str, GgmlType], measured: Speed) -> SpeedModel:
        """What predicts a measured model exactly.

        The time above the products' is fixed; where the model is faster than its products alone
        (it has kernels for several rows at once), products are that much faster.
        """
        plain = SpeedModel(self.active, self.costs).predict(types)
        fixed_g, scale_g = _line(1.0 / plain.generate, 1.0 / measured.generate)
        fixed_p, scale_p = _line(1.0 / plain.prompt, 1.0 / measured.prompt)
        return replace(
            self,
            fixed_generate=fixed_g,
            scale_generate=scale_g,
            fixed_prompt=fixed_p,
            scale_prompt=scale_p,
        )


def _line(predicted: float, measured: float) -> tuple[float, float]:
    """Fixed seconds and factor."""
    if measured >= predicted:
        return measured - predicted, 1.0
    return 0.0, measured / predicted


def measure_plan(
    source: GgufFile,
    plans: Mapping[str, tuple[Plan, Imatrix | None]],
    placement: Placement,
    hessian: Hessian | None = None,
) -> dict[str, Speed]:
    """Measured speed of plans by name, carried out in memory one after the other."""
    tests = [
        SpeedSettings(placement.n_threads or usable_threads(), n_gen=GENERATED, repetitions=3),
        SpeedSettings(placement.n_threads or usable_threads(), n_prompt=READ, repetitions=3),
    ]
    found = {}
    for name, (plan, imatrix) in plans.items():
        made = PlannedModel(
            source, plan, imatrix=imatrix, hessian=hessian, name=name,
            n_threads=placement.n_threads,
        )  # fmt: skip
        try:
            (speed,) = measure_models({name: ModelUnderTest(made, placement=placement)}, tests)
        finally:
            made.close()
        generate, prompt = (result.median for result in speed.results)
        found[name] = Speed(generate, prompt)
    return found


@dataclass(frozen=True, slots=True)
class MinSpeed:
    """The least speed of generation: factor times a fixed recipe's, or tokens per second."""

    factor: float
    recipe: str | None = None

    def tokens_per_s(self, speed_of: Callable[[str], float]) -> float:
        """As a number; speed_of gives a fixed recipe's."""
        return self.factor if self.recipe is None else self.factor * speed_of(self.recipe)


def parse_min_speed(text: str) -> MinSpeed:
    """``1.1x:Q4_K_M`` or ``35`` (tokens per second); PlanError for anything else."""
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:x:([\w-]+))?\s*", text)
    if matched is None or not float(matched[1]) > 0:
        raise PlanError(
            f"a least speed of '{text}': expected tokens per second (35) or a multiple of a fixed "
            "recipe's (1.1x:Q4_K_M)"
        )
    if matched[2] is not None and not is_tier_name(matched[2]):
        FileType.parse(matched[2])
    return MinSpeed(float(matched[1]), matched[2])
