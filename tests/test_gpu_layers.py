"""How many layers go to a GPU, against a plan whose bytes are known."""

from __future__ import annotations

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.gpu_layers import MARGIN_BYTES, fit_gpu_layers

MIB = 1 << 20
N_LAYERS, LAYER, HEAD, GRAPH = 40, 1600 * MIB, 970 * MIB, 900 * MIB


class Plan:
    """Of a model on GPUs with so much free memory each; the last layers go there, then the head."""

    n_layers = N_LAYERS

    def __init__(self, n: int, free: tuple[int, ...]) -> None:
        self._free = free
        on_gpu = N_LAYERS if n < 0 else n
        weights = on_gpu * LAYER + (HEAD if n < 0 else 0)
        self.each = weights // len(free)

    def memory_use(self, **_: int) -> list[tuple[str, int, int, int, int]]:
        gpus = [(f"CUDA{i}", self.each, 0, GRAPH, free) for i, free in enumerate(self._free)]
        return [*gpus, ("", 0, 0, 0, 0)]


def fit(*free: int, reserve: int = 0) -> tuple[int, int]:
    """Layers, and how many plans were made."""
    asked: list[int] = []

    def open_plan(n: int) -> Plan:
        asked.append(n)
        return Plan(n, free)

    return fit_gpu_layers(open_plan, reserve=reserve), len(asked)


def test_all_layers_where_there_is_room() -> None:
    needed = N_LAYERS * LAYER + HEAD + GRAPH + MARGIN_BYTES
    assert fit(needed) == (-1, 1)
    assert fit(needed - 1)[0] in (N_LAYERS - 1, N_LAYERS)
    half = (N_LAYERS * LAYER + HEAD) // 2 + GRAPH + MARGIN_BYTES
    assert fit(half, half) == (-1, 1)
    assert fit(half, half - 1)[0] > 0


@pytest.mark.parametrize("gib", [4, 12, 24, 48])
def test_as_many_as_fit_and_not_one_fewer(gib: int) -> None:
    free = gib << 30
    n, n_plans = fit(free)
    room = free - GRAPH - MARGIN_BYTES
    assert n * LAYER <= room < (n + 2) * LAYER
    assert n_plans <= 3


def test_what_comes_later_keeps_its_place() -> None:
    free, reserve = 48 << 30, 20 << 30
    n = fit(free, reserve=reserve)[0]
    assert n * LAYER + GRAPH + MARGIN_BYTES + reserve <= free
    assert fit(reserve, reserve=reserve)[0] == 0


def test_no_gpu_is_no_layers() -> None:
    assert fit_gpu_layers(lambda n: Plan(n, (0,))) == 0
    plan = core.Model(str(apex.demo_model()), no_alloc=True)
    uses = plan.memory_use(n_ctx=512, n_batch=512, n_seq_max=1, n_outputs_max=1)
    assert [name for name, *_ in uses if not name]  # the host's
    assert uses[-1][1] > 30 * MIB  # the weights it would hold
    with pytest.raises(ValueError, match="without weights"):
        plan.memory_use(n_ctx=512, n_batch=512, n_seq_max=1, n_outputs_max=1, n_tokens=1)
