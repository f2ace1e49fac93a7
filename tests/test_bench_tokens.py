"""Tokens per second: what is timed, how it is counted, and settings that cannot be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.engine import Model, Placement, load_model
from apex_native.evaluation import ModelUnderTest
from apex_native.evaluation.speed import (
    ModelSpeed,
    SpeedProgress,
    SpeedResult,
    SpeedSettings,
    measure_models,
    measure_speed,
    median_of,
    speed_grid,
    speed_record,
    speed_results,
    spread_of,
)
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import open_gguf
from apex_native.results import Results
from apex_native.types import GgmlType

# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "median", "spread"),
    [((3.0,), 3.0, 0.0), ((4.0, 1.0, 2.0), 2.0, 1.5), ((8.0, 1.0, 2.0, 4.0), 3.0, 7 / 3)],
)
def test_median_and_spread(samples: tuple[float, ...], median: float, spread: float) -> None:
    assert median_of(samples) == median
    assert spread_of(samples) == pytest.approx(spread, rel=1e-15)


def test_no_samples_have_no_median() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_of(())


def test_tokens_per_second_are_timed_tokens_over_time() -> None:
    settings = SpeedSettings(n_threads=1, n_prompt=300, n_gen=100, n_depth=5000)
    result = SpeedResult(settings, (2_000_000_000, 500_000_000, 1_000_000_000))
    assert result.samples == (200.0, 800.0, 400.0)
    assert result.median == 400.0
    assert result.spread == 1.5


@pytest.mark.parametrize(
    ("lengths", "name"),
    [
        ({"n_prompt": 512}, "pp512"),
        ({"n_gen": 128}, "tg128"),
        ({"n_prompt": 5, "n_gen": 7}, "pp5+tg7"),
        ({"n_gen": 8, "n_depth": 4096}, "tg8 @ d4096"),
    ],
)
def test_tests_are_named_as_llama_bench_names_them(lengths: dict[str, int], name: str) -> None:
    assert SpeedSettings(n_threads=1, **lengths).test == name


def test_grid_has_every_combination_in_llama_benchs_order() -> None:
    grid = speed_grid(
        prompts=(512, 0),
        gens=(128,),
        pairs=((16, 4), (0, 0)),
        n_threads=(1, 2),
        type_k=(GgmlType.F16, GgmlType.Q8_0),
    )
    assert [(row.type_k.name, row.n_threads, row.test) for row in grid] == [
        (kind, threads, test)
        for kind in ("F16", "Q8_0")
        for threads in (1, 2)
        for test in ("pp512", "tg128", "pp16+tg4")
    ]


def test_eta_is_at_the_speed_so_far() -> None:
    assert SpeedProgress("pp", 25, 100, 3.0).eta_s == 9.0
    assert SpeedProgress("pp", 0, 100, 3.0).eta_s is None


# --- measuring ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load_model(apex.demo_model(), n_threads=2) as loaded:
        yield loaded


def test_samples_are_no_more_than_the_time_that_passed(model: Model) -> None:
    settings = SpeedSettings(n_threads=1, n_prompt=96, n_gen=8, repetitions=6, warm_up=False)
    start = time.perf_counter_ns()
    result = measure_speed(model, settings)
    passed = time.perf_counter_ns() - start
    assert len(result.samples_ns) == 6
    assert min(result.samples_ns) > 0
    assert sum(result.samples_ns) <= passed
    rates = [1e9 * 104 / ns for ns in result.samples_ns]
    assert list(result.samples) == pytest.approx(rates, rel=1e-12)


def native_test(model: Model, settings: SpeedSettings) -> Any:
    """The object whose run() is timed; making it makes the context."""
    return core.SpeedTest(model.native, settings.native(), stop=core.StopFlag())


@pytest.mark.parametrize(
    ("settings", "n_tokens"),
    [
        (SpeedSettings(1, n_prompt=40, repetitions=2), 40 + 2 * 40),
        (SpeedSettings(1, n_gen=5, repetitions=3), 1 + 3 * 5),
        (SpeedSettings(1, n_prompt=9, n_gen=2, n_depth=30, repetitions=2), 10 + 30 + 2 * 11),
        (SpeedSettings(1, n_prompt=9, warm_up=False, repetitions=1), 9),
        (SpeedSettings(1, n_prompt=50, n_batch=16, n_ubatch=8, repetitions=1), 2 * 50),
    ],
)
def test_every_token_is_computed(model: Model, settings: SpeedSettings, n_tokens: int) -> None:
    # The depth is computed once and put back for the second repetition.
    native = native_test(model, settings)
    assert native.n_tokens == n_tokens
    assert len(native.run()) == settings.repetitions
    assert native.tokens_done == native.n_tokens == n_tokens


def test_progress_is_reported_while_it_runs(model: Model) -> None:
    seen: list[SpeedProgress] = []
    settings = SpeedSettings(1, n_prompt=256, n_batch=32, repetitions=4)
    measure_speed(model, settings, progress=seen.append)
    assert seen
    assert {state.n_tokens for state in seen} == {5 * 256}
    done = [state.tokens_done for state in seen]
    assert done == sorted(done)


@pytest.mark.parametrize("type_v", [GgmlType.F16, GgmlType.Q8_0])
def test_cache_types_are_used(model: Model, type_v: GgmlType) -> None:
    settings = SpeedSettings(1, n_gen=2, type_k=GgmlType.Q8_0, type_v=type_v, repetitions=1)
    assert measure_speed(model, settings).median > 0


# --- what cannot be -----------------------------------------------------------------------------


def context_length() -> int:
    with open_gguf(apex.demo_model()) as file:
        return int(file.metadata["qwen35moe.context_length"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_prompt": 0}, "at least one token"),
        ({"n_prompt": -1}, "n_prompt: expected 0 to"),
        ({"n_prompt": 2**31}, "n_prompt: expected 0 to"),
        ({"n_gen": 2**31 - 1}, "longer than the model's context"),
        ({"n_prompt": 10**9, "n_gen": 10**9, "n_depth": 10**9}, "longer than the model's context"),
        ({"n_threads": 0}, "n_threads: expected 1 to"),
        ({"n_threads": 100_000}, "n_threads: expected 1 to 512"),
        ({"repetitions": 0}, "repetitions: expected 1 to"),
        ({"n_batch": 0}, "n_batch: expected 1 to"),
        ({"n_ubatch": -5}, "n_ubatch: expected 1 to"),
        ({"type_k": GgmlType.Q4_K}, "a KV cache cannot have type q4_K"),
        ({"type_v": GgmlType.I32}, "a KV cache cannot have type i32"),
    ],
)
def test_settings_that_cannot_be(model: Model, changes: dict[str, int], message: str) -> None:
    settings = SpeedSettings(**{"n_threads": 1, "n_prompt": 8, "repetitions": 1, **changes})
    with pytest.raises(ValueError, match=message):
        measure_speed(model, settings)


def test_one_token_more_than_the_context_is_too_many(model: Model) -> None:
    settings = SpeedSettings(1, n_prompt=context_length(), n_gen=1)
    with pytest.raises(ValueError, match=f"context of {context_length()}"):
        measure_speed(model, settings)


def test_more_than_the_context_can_be_asked_for(model: Model) -> None:
    n_prompt = context_length() + 1
    settings = SpeedSettings(1, n_prompt=n_prompt, beyond_context=True, repetitions=1)
    assert native_test(model, settings).n_tokens == 2 * n_prompt
    with pytest.raises(ValueError, match="or pass `beyond_context=True`"):
        native_test(model, replace(settings, beyond_context=False))


def test_even_beyond_the_context_there_is_an_end(model: Model) -> None:
    settings = SpeedSettings(1, n_prompt=2**20, n_gen=1, beyond_context=True)
    with pytest.raises(ValueError, match="longest that is allowed, 1048576"):
        native_test(model, settings)


def test_a_vocabulary_cannot_be_timed() -> None:
    with (
        load_model(apex.demo_model(), vocab_only=True) as model,
        pytest.raises(ValueError, match="vocabulary only"),
    ):
        measure_speed(model, SpeedSettings(1, n_prompt=8))


def test_each_model_has_its_tests() -> None:
    shown: list[float] = []
    finished: list[tuple[str, int]] = []
    tests = [SpeedSettings(1, n_prompt=8, repetitions=1), SpeedSettings(1, n_gen=1, repetitions=1)]
    demo = ModelUnderTest(apex.demo_model(), type_k="q8_0", placement=Placement(n_threads=1))
    found = measure_models(
        {"first": demo, "second": demo},
        tests,
        own_caches=True,
        progress=lambda state: shown.append(state.share),
        finished=lambda speed: finished.append((speed.name, len(speed.results))),
    )
    assert finished == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
    assert shown == sorted(shown)
    for speed in found:
        assert [result.settings.test for result in speed.results] == ["pp8", "tg1"]
        assert {result.settings.type_k for result in speed.results} == {GgmlType.Q8_0}


# --- what is kept -------------------------------------------------------------------------------


def measured(*results: SpeedResult) -> ModelSpeed:
    tested = ModelUnderTest(apex.demo_model(), placement=Placement(n_threads=2))
    return ModelSpeed("demo", tested, "a model", 18_400_000, results)


def test_a_line_says_where_what_and_how() -> None:
    settings = SpeedSettings(2, n_gen=3, type_k=GgmlType.Q8_0, repetitions=2)
    result = SpeedResult(settings, (30_000_000, 60_000_000))
    record = json.loads(json.dumps(speed_record(measured(result), result)))
    assert record["schema_version"] == 1
    assert record["benchmark"] == "speed"
    assert record["test"] == "tg3"
    assert record["samples_ns"] == [30_000_000, 60_000_000]
    assert record["samples"] == pytest.approx([100.0, 50.0])
    assert record["median"] == pytest.approx(75.0)
    assert record["settings"] == {
        "n_threads": 2,
        "n_prompt": 0,
        "n_gen": 3,
        "n_depth": 0,
        "n_batch": 2048,
        "n_ubatch": 512,
        "type_k": "q8_0",
        "type_v": "f16",
        "repetitions": 2,
        "warm_up": True,
        "flash_attn": None,
        "beyond_context": False,
    }
    assert record["load"]["n_gpu_layers"] == 0
    assert record["load"]["repack"] is True
    assert "n_threads" not in record["load"]
    assert record["build"] == core.build_info()
    assert record["machine"]["cpu"]
    with open_gguf(apex.demo_model()) as file:
        assert record["model"]["fingerprint"] == model_fingerprint(file)
    assert record["model"]["bytes"] == Path(apex.demo_model()).stat().st_size


def test_results_file_can_be_read_again(tmp_path: Path) -> None:
    result = SpeedResult(SpeedSettings(2, n_prompt=512), (10**9, 2 * 10**9))
    path = tmp_path / "speed.json"
    speed = measured(result)
    speed_results([speed]).save(path)
    (candidate,) = Results.load(path).candidates
    source = speed.model.source
    assert (candidate.name, candidate.bytes) == (speed.name, source.nbytes)
    assert candidate.fingerprint == source.fingerprint
    (test,) = candidate.speed
    assert (test.test, test.n_threads, test.type_k, test.type_v) == ("pp512", 2, "f16", "f16")
    assert test.samples == (512.0, 256.0)
    assert test.median == 384.0
