"""Whole searches on the demo model: budgets kept, nothing measured twice, numbers that hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native.allocation import (
    DomainText,
    Effort,
    SearchOutcome,
    SearchRequest,
    TextSizes,
    check_budgets,
    search_types,
)
from apex_native.allocation.provenance import search_facts
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.verdict import Ratio
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.errors import DataError, PlanError
from apex_native.imatrix import Imatrix, Importance
from apex_native.types import GgmlType

CTX = 64
BUDGETS = (12_000_000, 8_000_000)
SIZES = TextSizes(fit=3, choose=3, verify=6, more=6)
EFFORT = Effort(SIZES, candidates=2, recipes=1, moves=1, look=2, baselines=2)


def texts() -> tuple[DomainText, ...]:
    return tuple(DomainText(f"part {seed}", demo_text(9_000, seed=seed)) for seed in (11, 12))


@pytest.fixture(scope="module")
def source() -> Iterator[apex.GgufFile]:
    with apex.open_gguf(apex.demo_model()) as opened:
        yield opened


@pytest.fixture(scope="module")
def imatrix() -> Imatrix:
    return apex.load_imatrix(apex.demo_imatrix())


def request(**changes: object) -> SearchRequest:
    settings = {
        "budgets": BUDGETS, "texts": texts(), "ctx": CTX, "effort": EFFORT,
        "placement": Placement(n_threads=2),
    }  # fmt: skip
    return SearchRequest(**{**settings, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Found:
    outcome: SearchOutcome
    store: Path


@pytest.fixture(scope="module")
def found(
    source: apex.GgufFile, imatrix: Imatrix, tmp_path_factory: pytest.TempPathFactory
) -> Found:
    store = tmp_path_factory.mktemp("store")
    return Found(search_types(source, request(), imatrix, store=store), store)


@pytest.mark.slow
def test_every_file_keeps_to_its_budget(found: Found) -> None:
    for outcome, budget in zip(found.outcome.budgets, BUDGETS, strict=True):
        assert outcome.budget == budget
        assert outcome.nbytes == outcome.plan.total_bytes <= budget
        if outcome.name == "search":
            assert outcome.nbytes > 0.995 * budget


@pytest.mark.slow
def test_the_verdict_follows_from_the_interval(found: Found) -> None:
    for outcome in found.outcome.budgets:
        measured = [b for b in outcome.baselines if b.kld_mean is not None]
        # The best predicted recipes of every budget, measured together.
        assert len(measured) >= EFFORT.baselines
        assert all(b.nbytes <= outcome.budget for b in outcome.baselines)
        best = outcome.best_baseline
        assert best is not None
        assert best.ratio is not None
        assert best.ratio.low <= best.ratio.value <= best.ratio.high
        assert best.kld_p999 is not None
        assert best.kld_p999 > best.kld_mean
        assert (outcome.name == "search") == (best.ratio.high < 1)
        if outcome.name == "search":
            assert outcome.kld_mean == pytest.approx(best.ratio.value * best.kld_mean)


@pytest.mark.slow
def test_less_room_costs_more(found: Found) -> None:
    large, small = found.outcome.budgets
    assert large.kld_mean < small.kld_mean
    assert large.predicted < small.predicted


@pytest.mark.slow
def test_the_same_again_computes_only_the_verdict(
    found: Found, source: apex.GgufFile, imatrix: Imatrix
) -> None:
    again = search_types(source, request(), imatrix, store=found.store)
    assert [b.types for b in again.budgets] == [b.types for b in found.outcome.budgets]
    assert [b.kld_mean for b in again.budgets] == [b.kld_mean for b in found.outcome.budgets]
    first, second = found.outcome.report["costs"], again.report["costs"]
    assert second["stored_passes"] > 10 * SIZES.fit
    assert second["forward_passes"] < first["forward_passes"] / 5


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing(
    found: Found, source: apex.GgufFile, imatrix: Imatrix
) -> None:
    alone = search_types(
        source, request(budgets=BUDGETS[:1], placement=Placement(n_threads=1)), imatrix
    )
    other = search_types(source, request(budgets=BUDGETS[:1]), imatrix)
    assert alone.budgets[0].types == other.budgets[0].types
    assert alone.budgets[0].kld_mean == other.budgets[0].kld_mean
    del found


@pytest.mark.slow
def test_rules_are_kept(found: Found, source: apex.GgufFile, imatrix: Imatrix) -> None:
    outcome = search_types(
        source,
        request(
            budgets=(9_000_000,),
            ladder="k-only",
            tensor_types=(r"^output\.weight$=Q4_K",),
            floor=GgmlType.Q5_K,
            together=True,
        ),
        imatrix,
        store=found.store,
    ).budgets[0]
    types = {tensor.name: tensor.type for tensor in outcome.plan.tensors}
    if outcome.name == "search":
        assert types["output.weight"] is GgmlType.Q4_K
        assert not any(type.name.startswith("IQ") for type in types.values())
        for tensor in outcome.plan.tensors:
            if tensor.role.value in ("attention", "ssm", "shared_expert"):
                assert tensor.type.bpw >= GgmlType.Q5_K.bpw
        for layer in range(8):
            pair = {types[f"blk.{layer}.ffn_{part}_exps.weight"] for part in ("gate", "up")}
            assert len(pair) == 1
    assert outcome.nbytes <= 9_000_000


def test_what_a_file_says_of_its_search_does_not_change_its_size(
    source: apex.GgufFile, imatrix: Imatrix
) -> None:
    space = SearchSpace.of(source, Importance(imatrix, source.facts).summary(), request())
    types = dict.fromkeys(space.choices, GgmlType.Q6_K)
    facts = search_facts(
        kld=1.25, kld_se=3e-9, ratio=Ratio(0.5, 0.4, 0.6), text_sha256="a" * 64, seed=10**12
    )
    plan = space.plan(types, facts)
    assert plan.total_bytes == space.plan(types).total_bytes == space.file_bytes(types)
    written = {entry.key: entry.value for entry in plan.metadata}
    assert written["apex.search.ratio_high"] == 0.6
    assert written["apex.search.text_sha256"] == "a" * 64
    # A fixed recipe says nothing of a search, so its size is what `quantize` would write.
    recipe = space.fixed_plan(ftype="Q4_K_M")
    assert not any(entry.key.startswith("apex.search") for entry in recipe.metadata)


def test_impossible_budgets_are_said_with_the_numbers(
    source: apex.GgufFile, imatrix: Imatrix
) -> None:
    with pytest.raises(PlanError, match=r"3,000,000 bytes is below [\d,]+, the smallest file"):
        search_types(source, request(budgets=(3_000_000,)), imatrix)
    with pytest.raises(PlanError, match=r"90,000,000 bytes is not below the source's [\d,]+"):
        search_types(source, request(budgets=(90_000_000,)), imatrix)
    pinned = r"12,000,000 bytes is below [\d,]+, .* that rules pin \([\d,]+ bytes without them\)"
    with pytest.raises(PlanError, match=pinned):
        search_types(source, request(budgets=(12_000_000,), tensor_types=("ffn=BF16",)), imatrix)
    with pytest.raises(PlanError, match=r"without an importance matrix \([\d,]+ bytes with one\)"):
        search_types(source, request(budgets=(5_500_000,)), None)
    with pytest.raises(PlanError, match=r"least speed of 'fast': expected tokens per second"):
        check_budgets(source, request(min_tg="fast"))
    with pytest.raises(PlanError, match="unknown ladder 'none'; known: all, k-only, iq-only"):
        search_types(source, request(ladder="none"), imatrix)


def test_pins_without_effect_are_named_before_anything_is_measured(source: apex.GgufFile) -> None:
    pins = ("no_such_tensor=Q8_0", "output=Q8_0")
    assert check_budgets(source, request(tensor_types=pins)) == [
        "rule no_such_tensor=Q8_0 matches no tensor"
    ]


def test_too_little_text_is_said_with_the_numbers(source: apex.GgufFile, imatrix: Imatrix) -> None:
    short = (DomainText("short", demo_text(400, seed=1)),)
    with pytest.raises(DataError, match=r"the text has \d chunks of 64 tokens .*at least 8"):
        search_types(source, request(texts=short), imatrix)
    with pytest.raises(DataError, match="needs a text"):
        search_types(source, request(texts=()), imatrix)


@pytest.mark.slow
def test_the_command_prints_what_it_promises(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(demo_text(60_000, seed=4))
    arguments = [
        *("search", str(apex.demo_model()), "--budget", "9MB", "-f", str(text)),
        *("-o", str(tmp_path / "nine.gguf"), "--effort", "quick", "--json"),
        *("--calibration-chunks", "4"),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "apex_native", *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    (row,) = document["budgets"]
    promised = {
        *("budget", "bytes", "file", "kld_mean", "kld_se", "baseline"),
        *("ratio", "ratio_low", "ratio_high", "recipe"),
    }
    assert promised <= set(row)
    assert document["seconds"] > 0
    path = Path(row["file"])
    assert path.stat().st_size == row["bytes"] <= 9_000_000
    with apex.open_gguf(apex.demo_model()) as source, apex.open_gguf(path) as written:
        matrix = apex.load_imatrix(tmp_path / "nine.imatrix.gguf")
        again = apex.make_plan(source, tier=row["recipe"], imatrix=matrix)
        assert {t.name: t.type for t in written.tensors} == again.types
    assert np.isfinite(row["kld_mean"])
