"""Statistics of scored positions and of differences, against numpy and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tolerances
from apex_native.evaluation.divergence.bootstrap import MIN_CHUNKS, Paired, compare_pair
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.statistics import alone_fields, candidate_fields
from apex_native.results import ChunkSums, Verdict

N_SCORED, N_CHUNKS = 25, 12


def scores(rng: np.random.Generator, *, candidate: bool) -> TokenScores:
    n = N_SCORED * N_CHUNKS
    kld = rng.exponential(0.1, n) if candidate else np.zeros(0)
    same = (rng.random(n) < 0.8).astype(np.uint8) if candidate else np.zeros(0, np.uint8)
    top = np.zeros(0) if candidate else rng.random(n)
    return TokenScores(rng.exponential(2.0, n), np.ones(n, np.uint8), kld, same, top)


def test_fields_are_their_definitions(rng: np.random.Generator) -> None:
    reference, candidate = scores(rng, candidate=False), scores(rng, candidate=True)
    found = candidate_fields(reference, candidate, N_SCORED)
    n = candidate.n
    difference = candidate.nll - reference.nll
    delta_p = np.exp(-candidate.nll) - np.exp(-reference.nll)
    expected = {
        "ppl": math.exp(candidate.nll.mean()),
        "ppl_se": math.exp(candidate.nll.mean()) * candidate.nll.std(ddof=1) / math.sqrt(n),
        "ln_ppl_ratio": difference.mean(),
        "ln_ppl_ratio_se": difference.std(ddof=1) / math.sqrt(n),
        "ln_ppl_correlation": np.corrcoef(candidate.nll, reference.nll)[0, 1],
        "kld_mean": candidate.kld.mean(),
        "kld_se": candidate.kld.std(ddof=1) / math.sqrt(n),
        "kld_median": np.median(candidate.kld),
        "kld_p90": np.quantile(candidate.kld, 0.9),
        "kld_p99": np.quantile(candidate.kld, 0.99),
        "kld_p999": np.quantile(candidate.kld, 0.999),
        "kld_max": candidate.kld.max(),
        "delta_p_mean": delta_p.mean(),
        "delta_p_rms": math.sqrt((delta_p**2).mean()),
        "delta_p_p25": np.quantile(delta_p, 0.25),
        "same_top": candidate.is_same_top.mean(),
        "same_top_se": math.sqrt(
            candidate.is_same_top.mean() * (1 - candidate.is_same_top.mean()) / (n - 1)
        ),
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=tolerances.STATISTICS_RTOL), key
    assert (found["n_positions"], found["n_not_finite"]) == (n, 0)
    by_chunk = candidate.kld.reshape(N_CHUNKS, N_SCORED).sum(axis=1)
    assert found["chunks"].kld == pytest.approx(by_chunk)


def test_bins_of_confidence_hold_every_position_once(rng: np.random.Generator) -> None:
    reference, candidate = scores(rng, candidate=False), scores(rng, candidate=True)
    bins = candidate_fields(reference, candidate, N_SCORED)["kld_by_confidence"]
    assert sum(part.n_positions for part in bins) == candidate.n
    weighted = sum(part.n_positions * part.kld_mean for part in bins if part.n_positions)
    assert weighted / candidate.n == pytest.approx(candidate.kld.mean())
    for part in bins:
        inside = (reference.top_probability >= part.low) & (reference.top_probability < part.high)
        assert part.n_positions == inside.sum()


def test_positions_that_are_not_finite_are_counted_and_left_out(rng: np.random.Generator) -> None:
    reference, candidate = scores(rng, candidate=False), scores(rng, candidate=True)
    candidate.is_finite[[3, 100]] = 0
    reference.is_finite[[3, 200]] = 0
    candidate.nll[[3, 100]] = np.nan
    candidate.kld[[3, 100, 200]] = np.nan
    found = candidate_fields(reference, candidate, N_SCORED)
    assert (found["n_positions"], found["n_not_finite"]) == (candidate.n - 3, 3)
    keep = np.delete(np.arange(candidate.n), [3, 100, 200])
    assert found["kld_mean"] == pytest.approx(candidate.kld[keep].mean())
    assert found["chunks"].n_positions[0] == N_SCORED - 1
    alone = alone_fields(candidate, N_SCORED)
    assert (alone["n_positions"], alone["n_not_finite"]) == (candidate.n - 2, 2)


def test_nothing_finite_gives_no_number() -> None:
    n = N_SCORED
    zeros = np.zeros(n, np.uint8)
    nothing = TokenScores(np.full(n, np.nan), zeros, np.full(n, np.nan), zeros, np.zeros(n))
    found = alone_fields(nothing, N_SCORED)
    assert found["ppl"] is None
    assert found["n_not_finite"] == n


# --- differences --------------------------------------------------------------------------------


def paired(name: str, kld: np.ndarray) -> Paired:
    n = len(kld)
    sums = tuple(float(value) * N_SCORED for value in kld)
    return Paired(name, ChunkSums(n_positions=(N_SCORED,) * n, nll=sums, kld=sums))


def test_a_model_against_itself_is_not_distinguishable(rng: np.random.Generator) -> None:
    model = paired("a", rng.exponential(1.0, 30))
    found = compare_pair(model, model, "kld_mean")
    assert found is not None
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE


def test_a_shift_is_seen_through_the_spread_of_chunks(rng: np.random.Generator) -> None:
    base = rng.exponential(1.0, 40)
    worse = base + 0.05 + 0.01 * rng.standard_normal(40)
    first, second = paired("a", base), paired("b", worse)
    found = compare_pair(first, second, "kld_mean")
    back = compare_pair(second, first, "kld_mean")
    assert found is not None
    assert back is not None
    assert found.verdict is Verdict.BETTER
    assert back.verdict is Verdict.WORSE
    assert found.difference == pytest.approx((base - worse).mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high < 0


def test_few_chunks_get_no_verdict(rng: np.random.Generator) -> None:
    few = MIN_CHUNKS - 1
    found = compare_pair(
        paired("a", np.zeros(few)), paired("b", np.ones(few) + rng.random(few)), "kld_mean"
    )
    assert found is not None
    assert found.low is None
    assert found.verdict is Verdict.TOO_FEW


def test_intervals_cover_what_they_promise() -> None:
    """95 % intervals of 10 chunks miss the truth in about 5 % of 300 samples.

    Binomial with 300 trials: fewer than 3 or more than 32 misses have a probability below 1e-4
    each; uncorrected percentile intervals miss about 10 %.
    """
    rng = np.random.default_rng(77)
    n_missed = 0
    for _ in range(300):
        found = compare_pair(
            paired("a", 1 + rng.standard_normal(10)), paired("b", np.ones(10)), "kld_mean"
        )
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        n_missed += not found.low <= 0 <= found.high
    assert 3 <= n_missed <= 32
