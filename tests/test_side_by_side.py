"""Models on GPUs of their own: who goes where, and how several are loaded at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.engine import Model, Placement
from apex_native.errors import ModelError
from apex_native.evaluation import ModelUnderTest
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_source import ModelFile
from apex_native.evaluation.side_by_side import side_by_side

GIB = 1 << 30
ALL = Placement(n_gpu_layers=-1)


def model(name: str, gib: float, placement: Placement = ALL) -> ModelUnderTest:
    source = ModelFile(name, Path(f"{name}.gguf"), int(gib * GIB), 4.5, name)
    return ModelUnderTest(source, placement=placement)


def devices(models: list[ModelUnderTest]) -> list[tuple[str, ...]]:
    return [model.placement.devices for model in models]


def test_each_model_goes_where_there_is_most_room() -> None:
    models = [model("f16", 65), model("quality", 21), model("mini", 12)]
    assert devices(side_by_side(models, [80 * GIB] * 4, 3 * GIB)) == [
        ("CUDA0",), ("CUDA1",), ("CUDA2",)
    ]  # fmt: skip
    assert devices(side_by_side(models, [80 * GIB] * 2, 3 * GIB)) == [
        ("CUDA0",), ("CUDA1",), ("CUDA1",)
    ]  # fmt: skip
    # The second card has less left than the first one's rest.
    assert devices(side_by_side(models, [140 * GIB, 20 * GIB], 3 * GIB)) == [
        ("CUDA0",), ("CUDA0",), ("CUDA0",)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("models", "free"),
    [
        ([model("f16", 65), model("mini", 12)], [80]),
        ([model("f16", 65)], [80, 80]),
        ([model("f16", 90), model("mini", 12)], [80, 80]),
        ([model("f16", 40), model("q8", 40), model("q6", 40)], [80, 80]),
        ([model("a", 1), model("b", 1, Placement(n_gpu_layers=3))], [80, 80]),
        ([model("a", 1), model("b", 1, Placement(n_gpu_layers=0))], [80, 80]),
        ([model("a", 1), model("b", 1, Placement(n_gpu_layers=-1, main_gpu=1))], [80, 80]),
        ([model("a", 1), model("b", 1, Placement(n_gpu_layers=-1, devices=("CUDA1",)))], [80, 80]),
    ],
    ids=["one GPU", "one model", "too large", "no room for the third", "some layers", "on the CPU",
         "a main GPU", "devices"],
)  # fmt: skip
def test_what_cannot_be_placed_stays(models: list[ModelUnderTest], free: list[int]) -> None:
    assert side_by_side(models, [n * GIB for n in free], 3 * GIB) == models


def on(device: str) -> ModelUnderTest:
    return ModelUnderTest(apex.demo_model(), placement=Placement(devices=(device,)))


class Loads:
    """Waits until all loads have begun: a load at a time would never get there."""

    def __init__(self, n: int) -> None:
        self.begun = threading.Barrier(n, timeout=30)
        self.order: list[str] = []

    def __call__(self, tested: ModelUnderTest) -> Model:
        self.begun.wait()
        self.order.append(tested.placement.devices[0])
        if tested.placement.devices == ("CUDA1",):
            raise ModelError("CUDA1 is broken")
        return apex.load_model(apex.demo_model())


def test_models_of_different_gpus_are_loaded_at_once() -> None:
    loads = Loads(2)
    with ModelPool() as pool:
        pool.load_together([on("CUDA0"), on("CUDA2")], loads)
    assert sorted(loads.order) == ["CUDA0", "CUDA2"]


def test_the_error_of_a_load_is_raised_when_all_have_ended() -> None:
    loads = Loads(3)
    with ModelPool() as pool, pytest.raises(ModelError, match="CUDA1 is broken"):
        pool.load_together([on("CUDA0"), on("CUDA1"), on("CUDA2")], loads)
    assert len(loads.order) == 3


def test_models_of_one_gpu_wait_until_they_are_asked_for() -> None:
    def refuse(tested: ModelUnderTest) -> Model:
        raise AssertionError(tested.name)

    with ModelPool() as pool:
        pool.load_together([on("CUDA0"), on("CUDA0")], refuse)
