"""Tokens per second of several models: each loaded once, all tests of it, then the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from apex_native.engine import Model
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import ModelUnderTest, require_attention
from apex_native.evaluation.speed.tokens import (
    SpeedProgress,
    SpeedResult,
    SpeedSettings,
    measure_speed,
)
from apex_native.requirements import Work, require_able

__all__ = ["ModelSpeed", "ModelSpeedProgress", "measure_models"]


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """A model and its finished tests; description and n_parameters are llama.cpp's."""

    name: str
    model: ModelUnderTest
    description: str
    n_parameters: int
    results: tuple[SpeedResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpeedProgress:
    """How far `measure_models` is: the test at work of the model at work, and all that is done.

    number counts the model's tests from 1.
    """

    model: str
    number: int
    n_tests: int
    test: SpeedProgress
    share: float
    elapsed_s: float

    @property
    def state(self) -> str:
        """The model and the test at work, in words."""
        return f"{self.model} {self.test.test} ({self.number}/{self.n_tests})"

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        return self.elapsed_s * (1 - self.share) / self.share if self.share > 0 else None


@dataclass
class _Watch:
    """Turns the progress of one test into that of all."""

    report: Callable[[ModelSpeedProgress], None] | None
    n_models: int
    n_tests: int
    n_done: int = 0
    begin: float = field(default_factory=time.monotonic)

    def of(self, model: str, number: int) -> Callable[[SpeedProgress], None] | None:
        report = self.report
        if report is None:
            return None

        def show(test: SpeedProgress) -> None:
            part = test.tokens_done / max(test.n_tokens, 1)
            share = (self.n_done + part) / (self.n_models * self.n_tests)
            elapsed = time.monotonic() - self.begin
            report(ModelSpeedProgress(model, number, self.n_tests, test, share, elapsed))

        return show


def measure_models(
    models: Mapping[str, ModelUnderTest],
    tests: Sequence[SpeedSettings],
    *,
    own_caches: bool = False,
    pool: ModelPool | None = None,
    progress: Callable[[ModelSpeedProgress], None] | None = None,
    finished: Callable[[ModelSpeed], None] | None = None,
) -> tuple[ModelSpeed, ...]:
    """Run all tests on all models, by their names in results.

    own_caches: with each model's types of the KV cache instead of the tests'. A model is taken from
    the pool, or loaded, and freed before the next. finished is called after every test with the
    model's results so far, so that a caller that is interrupted keeps them. Errors are those of
    `measure_speed` and `load_model`.
    """
    for tested in models.values():
        require_able(tested.source.path, Work.SPEED)
        for test in _with_attention(tests, tested):
            require_attention(tested.type_v if own_caches else test.type_v, test.flash_attn)
    pool = pool if pool is not None else ModelPool()
    watch = _Watch(progress, len(models), len(tests))
    measured = []
    for name, tested in models.items():
        own = [
            replace(test, type_k=tested.type_k, type_v=tested.type_v) if own_caches else test
            for test in _with_attention(tests, tested)
        ]
        try:
            measured.append(_measure_model(name, tested, pool.load(tested), own, watch, finished))
        finally:
            pool.release(tested)
    return tuple(measured)


def _with_attention(
    tests: Sequence[SpeedSettings], tested: ModelUnderTest
) -> Iterator[SpeedSettings]:
    """The tests, each of which says how attention is computed."""
    for test in tests:
        yield replace(test, flash_attn=test.flash_attn or tested.placement.flash_attn)


def _measure_model(
    name: str,
    tested: ModelUnderTest,
    loaded: Model,
    tests: Sequence[SpeedSettings],
    watch: _Watch,
    finished: Callable[[ModelSpeed], None] | None,
) -> ModelSpeed:
    speed = ModelSpeed(name, tested, loaded.description, loaded.n_parameters)
    for number, test in enumerate(tests, 1):
        result = measure_speed(loaded, test, progress=watch.of(name, number))
        watch.n_done += 1
        speed = replace(speed, results=(*speed.results, result))
        if finished is not None:
            finished(speed)
    return speed
