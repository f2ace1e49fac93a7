"""The results file: what survives, what is refused, and how it is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_native.errors import OutputError, ResultsError
from apex_native.results import (
    Candidate,
    Results,
    SpeedTest,
    pack_items,
    unpack_items,
)
from results_data import BUILD, evaluation, speed_tests, task_score, with_mcnemar


@pytest.mark.parametrize("n_candidates", [0, 1, 13])
def test_results_survive_json_unchanged(tmp_path: Path, n_candidates: int) -> None:
    results = evaluation(n_candidates)
    read = Results.from_json(results.to_json())
    assert read == results
    assert read.to_json() == results.to_json()
    results.save(tmp_path / "eval.json")
    assert Results.load(tmp_path / "eval.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_verdicts_of_tasks_survive() -> None:
    results = with_mcnemar(evaluation(2))
    assert Results.from_json(results.to_json()) == results


def test_the_json_contract() -> None:
    data = json.loads(evaluation(2).to_json())
    assert (data["schema_version"], data["metrics_version"]) == (1, 1)
    assert set(data["reference"]) >= {"name", "path", "sha256", "bytes", "bpw", "ppl", "ppl_se"}
    assert set(data["data"]) == {
        *("name", "sha256", "n_tokens", "n_chunks", "ctx", "parse_special", "add_bos"),
        "tokens_sha256",
    }
    assert set(data["candidates"][0]) >= {
        *("name", "bytes", "bpw", "sha256", "ppl", "ppl_se", "ln_ppl_ratio", "ln_ppl_ratio_se"),
        *("kld_mean", "kld_se", "kld_median", "kld_max", "kld_p999", "kld_p99", "kld_p95"),
        *("kld_p90", "delta_p_mean", "delta_p_rms", "same_top", "same_top_se", "n_positions"),
        *("n_not_finite", "chunks", "kld_by_confidence", "router_agreement", "tasks", "speed"),
    }
    assert data["comparisons"][0]["verdict"] in ("better", "worse", "not distinguishable")
    assert set(data["candidates"][0]["tasks"][0]) >= {
        *("task", "n", "score", "low", "high", "chance", "distinguishable_from_chance", "items"),
    }
    assert set(data["noise_floor"]) >= {"description", "kld_mean", "kld_se", "kld_max"}


def test_accuracy_or_speed_alone_need_no_reference() -> None:
    tasks = Candidate("a", tasks=(task_score("mmlu", 41.0),))
    speed = Candidate("b", speed=speed_tests(50.0))
    results = Results(BUILD, "2026-11-25T03:00:00Z", (tasks, speed))
    assert Results.from_json(results.to_json()) == results


def test_what_is_not_finite_becomes_null_and_is_counted() -> None:
    first = replace(evaluation(1).candidates[0], ppl=math.inf, kld_max=math.nan)
    text = replace(evaluation(1), candidates=(first,)).to_json()
    for word in ("NaN", "Infinity", "nan", "inf"):
        assert f": {word}" not in text
    read = Results.from_json(text)
    assert read.candidates[0].ppl is None
    assert read.candidates[0].kld_max is None
    assert read.n_values_not_finite == 2
    # The count is the file's, not the last writer's.
    assert Results.from_json(read.to_json()).n_values_not_finite == 2


def test_a_value_that_must_be_there_cannot_be_nan() -> None:
    slow = SpeedTest("tg128", 8, "f16", "f16", median=math.nan)
    with pytest.raises(ResultsError, match=r"candidates\[0\]\.speed\[0\]\.median: expected float"):
        Results(BUILD, "2026", (Candidate("a", speed=(slow,)),)).to_json()


def test_keys_of_a_later_version_are_tolerated() -> None:
    data = json.loads(evaluation(1).to_json())
    data["weather"] = {"deep": [1, 2]}
    data["candidates"][0]["kld_p9999"] = 1.0
    assert Results.from_json(json.dumps(data)) == evaluation(1)


def test_keys_that_are_missing_were_not_measured() -> None:
    data = json.loads(evaluation(1).to_json())
    data["candidates"] = [{"name": "a", "bytes": 7}]
    data["comparisons"] = []
    assert Results.from_json(json.dumps(data)).candidates == (Candidate("a", bytes=7),)


def edited(change: Callable[[Any], Any]) -> str:
    data = json.loads(evaluation(2).to_json())
    change(data)
    return json.dumps(data)


CONTRADICTIONS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda d: d.update(schema_version=2), "schema_version must be 1, found 2; evaluate again"),
    (lambda d: d.update(schema_version=True), "schema_version must be 1, found True"),
    (lambda d: d.update(schema_version="1"), "schema_version must be 1, found 1"),
    (lambda d: d.pop("schema_version"), "schema_version must be 1, found None"),
    (lambda d: d.update(metrics_version=3), "metrics_version must be 1, found 3; evaluate again"),
    (lambda d: d.pop("candidates"), "this is no results file"),
    (lambda d: d.update(candidates=3), "candidates: expected an array, found 3"),
    (lambda d: d.update(candidates=[3]), r"candidates\[0\]: expected an object, found 3"),
    (lambda d: d["candidates"][0].pop("name"), r"candidates\[0\]: 'name' is missing"),
    (lambda d: d["candidates"][0].update(name=""), "must not be empty"),
    (lambda d: d["candidates"][0].update(ppl="6.5"), r"\.ppl: expected float, found '6.5'"),
    (lambda d: d["candidates"][0].update(ppl=[[]]), r"\.ppl: expected float, found an array of 1"),
    (lambda d: d["candidates"][0].update(ppl=10**400), "that fits a double"),
    (lambda d: d["candidates"][0].update(bytes=1.5), r"\.bytes: expected int, found 1.5"),
    (lambda d: d["candidates"][0].update(bytes=-1), "must not be negative, found -1"),
    (lambda d: d["candidates"][0].update(same_top=97.7), "must be a fraction between 0 and 1"),
    (lambda d: d["candidates"][0]["tasks"][0].update(score=83.0), "must be a fraction"),
    (lambda d: d["candidates"][0]["tasks"][0].update(low=0.9), "is outside its interval"),
    (lambda d: d["candidates"][0]["tasks"][0].update(items="zz"), "hexadecimal digits"),
    (lambda d: d["candidates"][0]["tasks"][1].update(task="hellaswag"), "a second score for"),
    (lambda d: d["candidates"][0]["chunks"].update(nll=[1.0]), "must have 145 entries"),
    (lambda d: d["candidates"][1].update(name=d["candidates"][0]["name"]), "2 have the name"),
    (lambda d: d["comparisons"][0].update(first="nobody"), "names 'nobody', which is no candidate"),
    (lambda d: d["comparisons"][0].update(verdict="best"), "expected one of better, worse"),
    (lambda d: d.update(reference=None), "no reference that it could be against"),
    (lambda d: d.update(data=None), "no data say of which text"),
    (lambda d: d["build"].pop("compiler"), r"build: 'compiler' is missing"),
]


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS)
def test_what_cannot_be_is_one_sentence(change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ResultsError, match=message) as caught:
        Results.from_json(edited(change), source="eval.json")
    assert str(caught.value).startswith("eval.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no readable JSON"),
        ("[1, 2", "no readable JSON"),
        (evaluation(1).to_json()[:-200], "no readable JSON"),
        ('{"candidates": NaN}', "NaN is no JSON number"),
        ('{"candidates": [-Infinity]}', "-Infinity is no JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("[]", "this is no results file"),
        ("3", "this is no results file"),
        ('"candidates"', "this is no results file"),
        ('{"candidates": [], "schema_version": ' + "9" * 5000 + "}", "no readable JSON"),
    ],
)
def test_hostile_text_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        Results.from_json(text)


def test_a_number_beyond_double_is_refused() -> None:
    text = evaluation(1).to_json().replace('"ppl": 6.533', '"ppl": 1e999')
    with pytest.raises(ResultsError, match=r"candidates\[0\]\.ppl: expected a finite number"):
        Results.from_json(text)


@given(st.data())
def test_any_damage_is_a_results_error_or_harmless(data: st.DataObject) -> None:
    text = evaluation(1, n_layers=1).to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    junk = data.draw(st.text(alphabet='{}[]",:0123456789.eE-truefalsn\\u\x00é', max_size=20))
    with suppress(ResultsError):
        Results.from_json(text[:start] + junk + text[end:])


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResultsError, match=r"cannot read results .*nothing\.json: No such file"):
        Results.load(tmp_path / "nothing.json")
    with pytest.raises(ResultsError, match="cannot read results"):
        Results.load(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\xff\xff")
    with pytest.raises(ResultsError, match="this is no results file"):
        Results.load(tmp_path / "model.gguf")
    monkeypatch.setattr("apex_native.results.document.MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "large.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ResultsError, match="larger than 1 MiB; this is no results file"):
        Results.load(tmp_path / "large.json")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write results"):
        evaluation(1).save(tmp_path / "no" / "folder.json")


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_items_survive_packing(correct: list[bool]) -> None:
    text = pack_items(correct)
    assert unpack_items(text, len(correct)) == tuple(correct)
    bits = "".join(str(int(value)) for value in correct)
    padded = bits + "0" * (-len(bits) % 4)
    assert int(text, 16) == int(padded, 2)


@pytest.mark.parametrize(("text", "n"), [("f", 5), ("ff", 4), ("f", 3), ("F", 4), ("+1", 8)])
def test_items_of_another_length_are_refused(text: str, n: int) -> None:
    with pytest.raises(ResultsError, match="evaluate the task again"):
        unpack_items(text, n)
