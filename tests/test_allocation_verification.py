"""The verdict: where it is open, more text is read; where it is clear, none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

import apex_native as apex
from apex_native.allocation import DomainText, ProbeStore, SearchRequest, TextSizes
from apex_native.allocation.fixed import FixedRecipe, fixed_recipes
from apex_native.allocation.outcome import BudgetOutcome
from apex_native.allocation.session import Measurement, ProbeSession, SessionSettings
from apex_native.allocation.solve import Solution
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.store import Scores
from apex_native.allocation.texts import SearchText, split_texts
from apex_native.allocation.verdict import LOOKS, kld_ratio
from apex_native.allocation.verification import Verifier
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.types import GgmlType

CTX = 64
SIZES = TextSizes(fit=1, choose=1, verify=4, more=13)
N_READ = (4, 12, 17)
"""Chunks at each look."""
BUDGET = 30_000_000
TEXTS = tuple(DomainText(str(seed), demo_text(8_000, seed=seed)) for seed in (21, 22))


@dataclass(frozen=True)
class Bench:
    space: SearchSpace
    session: ProbeSession
    text: SearchText
    recipe: FixedRecipe

    def verified(self, types: Mapping[str, GgmlType]) -> BudgetOutcome:
        verifier = Verifier(
            self.space, self.session, self.text, [self.recipe], lambda _: lambda _: None
        )
        solution = Solution(types, self.space.file_bytes(types), 0.0)
        (outcome,) = verifier.verify([(BUDGET, solution, 0.0, 1)], lambda _: 0.0, 1)
        return outcome


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    request = SearchRequest((BUDGET,), TEXTS, ctx=CTX)
    with apex.open_gguf(apex.demo_model()) as source:
        space = SearchSpace.of(source, None, request)
        settings = SessionSettings(CTX, Placement(n_threads=2))
        with ProbeStore(None) as store, ProbeSession(source, None, store, settings) as session:
            text = split_texts(TEXTS, session.model, ctx=CTX, sizes=SIZES, seed=0)
            recipe = next(r for r in fixed_recipes(space) if r.name == "Q8_0")
            yield Bench(space, session, text, recipe)


def q8_0(bench: Bench, **other: GgmlType) -> dict[str, GgmlType]:
    types = {name: bench.recipe.plan.types[name] for name in bench.space.choices}
    return {**types, **{name.replace("__", "."): type for name, type in other.items()}}


@pytest.mark.slow
def test_what_is_open_is_read_on(bench: Bench) -> None:
    types = q8_0(bench, blk__7__ffn_gate_exps__weight=GgmlType.Q6_K)
    changed = {n: t for n, t in types.items() if t is not bench.space.infos[n].type}
    both = [changed, bench.recipe.types]
    first = bench.session.measure(both, bench.text.verify)
    ratio = kld_ratio(*first)
    assert ratio.low < 1 <= ratio.high
    outcome = bench.verified(types)
    n_read = len(outcome.measured.scores)
    assert n_read in N_READ[1:]
    rest = bench.session.measure(both, bench.text.reserve)
    ours, theirs = (np.r_[a.kld, b.kld][:n_read] for a, b in zip(first, rest, strict=True))
    best = outcome.best_baseline
    assert best is not None
    assert best.ratio is not None
    assert best.ratio.value == pytest.approx(ours.mean() / theirs.mean())
    assert best.kld_mean == pytest.approx(theirs.mean())
    assert outcome.kld_mean == pytest.approx((ours if outcome.name == "search" else theirs).mean())
    assert outcome.measured.positions.shape[0] == n_read
    assert (best.ratio.low < 1 <= best.ratio.high) == (n_read == N_READ[-1])


@pytest.mark.slow
def test_what_is_clear_needs_no_more_text(bench: Bench) -> None:
    before = bench.session.costs.forward_passes
    worse = bench.verified(dict.fromkeys(bench.space.choices, GgmlType.Q3_K))
    assert worse.name == "Q8_0"
    same = bench.verified(q8_0(bench))
    assert same.best_baseline is not None
    assert same.best_baseline.ratio is not None
    assert same.best_baseline.ratio.value == 1
    for outcome in (worse, same):
        assert len(outcome.measured.scores) == SIZES.verify
    # Reference, result and recipe on every chunk, twice.
    assert bench.session.costs.forward_passes - before == 2 * 3 * SIZES.verify


@pytest.mark.parametrize("n_looks", [1, 2, 3])
def test_all_looks_together_hold_with_95_percent(n_looks: int) -> None:
    """Sums over n and 3 n chunks correlate as sqrt(n / 3 n); the normal integral is scipy's."""
    from scipy.stats import multivariate_normal, norm

    read = 3.0 ** np.arange(n_looks)
    correlation = np.sqrt(np.minimum.outer(read, read) / np.maximum.outer(read, read))
    z = np.full(n_looks, norm.isf((1 - LOOKS[n_looks - 1]) / 2))
    inside = multivariate_normal.cdf(z, cov=correlation, lower_limit=-z)
    assert inside == pytest.approx(0.95, abs=5e-4)


def test_more_looks_widen_the_interval() -> None:
    kld = np.random.default_rng(0).exponential(size=(2, 400))
    ours, theirs = (
        Measurement(tuple(Scores(n=1, kld=k, nll=0, reference_nll=0, same_top=1) for k in row))
        for row in kld
    )
    log_se = np.sqrt(2 / 400)
    for n_looks, z in ((1, 1.960), (2, 2.202), (3, 2.345)):
        ratio = kld_ratio(ours, theirs, n_looks)
        assert np.log(ratio.high / ratio.low) == pytest.approx(2 * z * log_se, rel=0.1)


def test_the_reserve_follows_the_verify_part(bench: Bench) -> None:
    without = TextSizes(SIZES.fit, SIZES.choose, SIZES.verify, more=0)
    other = split_texts(TEXTS, bench.session.model, ctx=CTX, sizes=without, seed=0)
    for name in ("fit", "choose", "verify"):
        assert np.array_equal(getattr(other, name).tokens, getattr(bench.text, name).tokens)
    assert other.reserve.n_chunks == 0
    assert bench.text.reserve.n_chunks == SIZES.more
    parts = (bench.text.fit, bench.text.choose, bench.text.verify, bench.text.reserve)
    chunks = [chunk.tobytes() for part in parts for chunk in part.tokens]
    assert len(set(chunks)) == len(chunks)
