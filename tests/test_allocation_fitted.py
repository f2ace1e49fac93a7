"""A search whose bytes are fitted to second moments: what is measured is what is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native.allocation import (
    DomainText,
    Effort,
    ProbeStore,
    SearchOutcome,
    SearchRequest,
    TextSizes,
    search_types,
)
from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.errors import ImatrixError, PlanError
from apex_native.imatrix import Hessian, HessianFile, Imatrix
from apex_native.types import GgmlType
from cli_tools import invoke

PLACEMENT = Placement(n_threads=2)
NAME = "blk.3.ffn_gate_exps.weight"
BUDGET = 9_000_000


@dataclass(frozen=True)
class Fitted:
    source: apex.GgufFile
    imatrix: Imatrix
    hessian: Hessian

    def session(self, store: ProbeStore, hessian: Hessian | None) -> ProbeSession:
        settings = SessionSettings(64, PLACEMENT)
        return ProbeSession(self.source, self.imatrix, store, settings, hessian)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fitted]:
    path = tmp_path_factory.mktemp("fitted") / "hessian.gguf"
    with apex.load_model(apex.demo_model(), n_threads=2) as model:
        imatrix = apex.collect_imatrix(
            model, demo_text(20_000, seed=5), ctx=128, max_chunks=30, hessian=path
        )
    with apex.open_gguf(apex.demo_model()) as source, HessianFile(path) as file:
        yield Fitted(source, imatrix, file.hessian)


def test_values_in_memory_are_the_files_bytes(fitted: Fitted, tmp_path: Path) -> None:
    plan = apex.make_plan(
        fitted.source, types={NAME: GgmlType.Q3_K}, reason="test", imatrix=fitted.imatrix
    )
    out = tmp_path / "fitted.gguf"
    apex.quantize(
        fitted.source, plan, out, imatrix=fitted.imatrix, hessian=fitted.hessian, n_threads=2
    )
    encoded = []
    for hessian in (fitted.hessian, None):
        with ProbeStore(None) as store, fitted.session(store, hessian) as session:
            (value,) = session.values.of({NAME: GgmlType.Q3_K})
            encoded.append(np.array(value.encoded).tobytes())
    with apex.open_gguf(out) as file:
        written = file.tensor_bytes(NAME).tobytes()
    assert encoded[0] == written
    assert encoded[1] != written


def test_a_probe_says_how_its_bytes_were_made(fitted: Fitted) -> None:
    chunk = np.arange(64, dtype=np.int32)
    keys = set()
    for hessian in (None, fitted.hessian):
        with ProbeStore(None) as store, fitted.session(store, hessian) as session:
            keys.add(session.probe({NAME: GgmlType.Q4_K}, chunk).key)
    assert len(keys) == 2


def test_errors_are_those_of_fitting(fitted: Fitted) -> None:
    with ProbeStore(None) as store, fitted.session(store, fitted.hessian) as session:
        values = session.values
        before = values.weight_error(NAME, GgmlType.Q3_K)
        errors = values.output_errors(NAME, GgmlType.Q3_K)
        assert errors is not None
        assert 0 < errors.ratio < 0.95
        embedding = values.output_errors("token_embd.weight", GgmlType.Q3_K)
        assert embedding is not None
        assert 0 < embedding.ratio < 0.95
        assert values.output_errors("blk.0.attn_norm.weight", GgmlType.F16) is None
        values.learn_shares(lambda _name, _type: 0.5)
        assert values.weight_error(NAME, GgmlType.Q3_K) == pytest.approx(0.5 * before)


@pytest.fixture(scope="module")
def found(fitted: Fitted) -> SearchOutcome:
    texts = tuple(DomainText(f"part {seed}", demo_text(9_000, seed=seed)) for seed in (11, 12))
    effort = Effort(
        TextSizes(fit=2, choose=2, verify=4, more=4),
        candidates=1,
        recipes=0,
        moves=0,
        finalists=1,
        baselines=1,
    )
    # Without grid types and two thirds of the experts: tests/test_feedback.py has their fits.
    rules = ("ffn_(up|down)_exps=Q3_K", "output=Q6_K")
    request = SearchRequest(
        (BUDGET,), texts, rules, "k-only", ctx=64, effort=effort, placement=PLACEMENT
    )
    return search_types(fitted.source, request, fitted.imatrix, hessian=fitted.hessian)


@pytest.mark.slow
def test_a_search_keeps_its_budget_and_says_what_it_fitted(
    found: SearchOutcome, fitted: Fitted, tmp_path: Path
) -> None:
    plan, out = found.budgets[0].plan, tmp_path / "searched.gguf"
    with pytest.raises(PlanError, match="fitted to second moments"):
        apex.quantize(fitted.source, plan, out, imatrix=fitted.imatrix)
    apex.quantize(fitted.source, plan, out, imatrix=fitted.imatrix, hessian=fitted.hessian)
    assert out.stat().st_size == found.budgets[0].nbytes <= BUDGET
    with apex.open_gguf(out) as file:
        assert file.metadata["apex.hessian.digest"] == fitted.hessian.digest


@pytest.mark.slow
def test_other_moments_than_the_plans_are_refused(
    found: SearchOutcome, fitted: Fitted, tmp_path: Path
) -> None:
    other = Hessian(fitted.hessian.inputs, fitted.hessian.input_of, "0" * 64, 1, {})
    plan, out = found.budgets[0].plan, tmp_path / "x.gguf"
    with pytest.raises(ImatrixError, match="was made for the second moments"):
        apex.quantize(fitted.source, plan, out, imatrix=fitted.imatrix, hessian=other)
    assert not out.exists()


def test_a_bare_hessian_beside_a_matrix_is_refused(tmp_path: Path) -> None:
    result = invoke(
        *("search", apex.demo_model(), "-b", "9MB", "--imatrix", apex.demo_imatrix()),
        *("-o", tmp_path / "x.gguf", "--hessian=collect"),
    )
    assert result.exit_code == 2
    assert "imatrix --hessian" in " ".join(result.stderr.split())
