"""From scored positions to the numbers of a results file; definitions are llama-perplexity's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from apex_native._native import core
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.results import ChunkSums, ConfidenceBin, NoiseFloor, RouterLayer

__all__ = [
    "CONFIDENCE_EDGES",
    "alone_fields",
    "candidate_fields",
    "noise_floor",
    "reference_fields",
]

CONFIDENCE_EDGES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"""Bins of the reference's highest probability; the last one includes 1."""

KLD_QUANTILES = {
    "kld_min": 0.0, "kld_p001": 0.001, "kld_p01": 0.01, "kld_p05": 0.05, "kld_p10": 0.1,
    "kld_median": 0.5, "kld_p90": 0.9, "kld_p95": 0.95, "kld_p99": 0.99, "kld_p999": 0.999,
    "kld_max": 1.0,
}  # fmt: skip

DELTA_P_QUANTILES = {
    "delta_p_min": 0.0, "delta_p_p001": 0.001, "delta_p_p01": 0.01, "delta_p_p05": 0.05,
    "delta_p_p10": 0.1, "delta_p_p25": 0.25, "delta_p_median": 0.5, "delta_p_p75": 0.75,
    "delta_p_p90": 0.9, "delta_p_p95": 0.95, "delta_p_p99": 0.99, "delta_p_p999": 0.999,
    "delta_p_max": 1.0,
}  # fmt: skip


def alone_fields(scores: TokenScores, n_scored: int) -> dict[str, Any]:
    """Perplexity of a model by itself, over its finite positions; n_scored is that of a chunk.

    PPL = exp(mean nll), its standard error PPL times that of the mean.
    """
    finite = scores.is_finite.astype(bool)
    mean, error = core.estimate(np.ascontiguousarray(scores.nll[finite]))
    counted = bool(finite.any())
    return {
        "ppl": _exp(mean) if counted else None,
        "ppl_se": _exp(mean) * error if counted else None,
        "n_positions": int(finite.sum()),
        "n_not_finite": int(scores.n - finite.sum()),
        "chunks": _chunk_sums(scores, finite, n_scored, with_kld=False),
    }


def reference_fields(scores: TokenScores, n_scored: int) -> dict[str, Any]:
    """The reference's own perplexity."""
    return alone_fields(scores, n_scored)


def candidate_fields(reference: TokenScores, scores: TokenScores, n_scored: int) -> dict[str, Any]:
    """All of a candidate's numbers against the reference, over positions finite in both."""
    found = _compare(reference, scores)
    finite = (scores.is_finite & reference.is_finite).astype(bool)
    counts = {
        "n_positions": found["n_positions"],
        "n_not_finite": found["n_not_finite"],
        "chunks": _chunk_sums(scores, finite, n_scored, with_kld=True),
    }
    if not found["n_positions"]:
        return counts
    ppl = _exp(found["nll"][0])
    return {
        **counts,
        "ppl": ppl,
        "ppl_se": ppl * found["nll"][1],
        "ln_ppl_ratio": found["log_ratio"][0],
        "ln_ppl_ratio_se": found["log_ratio"][1],
        "ln_ppl_correlation": found["correlation"],
        "kld_mean": found["kld"][0],
        "kld_se": found["kld"][1],
        **dict(zip(KLD_QUANTILES, found["kld_quantiles"], strict=True)),
        "delta_p_mean": found["delta_p"][0],
        "delta_p_mean_se": found["delta_p"][1],
        "delta_p_rms": found["delta_p_rms"][0],
        "delta_p_rms_se": found["delta_p_rms"][1],
        **dict(zip(DELTA_P_QUANTILES, found["delta_p_quantiles"], strict=True)),
        "same_top": found["same_top"][0],
        "same_top_se": found["same_top"][1],
        "kld_by_confidence": _by_confidence(reference, scores, finite),
        "router_agreement": _router_layers(scores.router),
    }


def noise_floor(reference: TokenScores, again: TokenScores, description: str) -> NoiseFloor:
    """The reference against itself; again may have fewer positions: the first ones."""
    n = again.n
    first = TokenScores(
        nll=reference.nll[:n],
        is_finite=reference.is_finite[:n],
        kld=reference.kld,
        is_same_top=reference.is_same_top,
        top_probability=reference.top_probability[:n],
    )
    found = _compare(first, again)
    if not found["n_positions"]:
        return NoiseFloor(description, n_positions=0)
    quantiles = dict(zip(KLD_QUANTILES, found["kld_quantiles"], strict=True))
    return NoiseFloor(
        description,
        kld_mean=found["kld"][0],
        kld_se=found["kld"][1],
        kld_max=quantiles["kld_max"],
        kld_p999=quantiles["kld_p999"],
        kld_median=quantiles["kld_median"],
        same_top=found["same_top"][0],
        n_positions=found["n_positions"],
    )


def _compare(reference: TokenScores, scores: TokenScores) -> dict[str, Any]:
    found: dict[str, Any] = core.compare_with_reference(
        reference_nll=np.ascontiguousarray(reference.nll),
        reference_is_finite=np.ascontiguousarray(reference.is_finite),
        nll=scores.nll,
        kld=scores.kld,
        is_same_top=scores.is_same_top,
        is_finite=scores.is_finite,
        kld_fractions=list(KLD_QUANTILES.values()),
        delta_p_fractions=list(DELTA_P_QUANTILES.values()),
    )
    return found


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _chunk_sums(
    scores: TokenScores, finite: np.ndarray[Any, Any], n_scored: int, *, with_kld: bool
) -> ChunkSums:
    by_chunk = finite.reshape(-1, n_scored)

    def sums(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
        # fsum: exact, so that the order of a chunk's positions does not matter.
        return tuple(
            math.fsum(row[keep])
            for row, keep in zip(values.reshape(-1, n_scored), by_chunk, strict=True)
        )

    return ChunkSums(
        n_positions=tuple(int(n) for n in by_chunk.sum(axis=1)),
        nll=sums(scores.nll),
        kld=sums(scores.kld) if with_kld else (),
    )


def _by_confidence(
    reference: TokenScores, scores: TokenScores, finite: np.ndarray[Any, Any]
) -> tuple[ConfidenceBin, ...]:
    top = reference.top_probability
    bins = []
    for low, high in itertools.pairwise(CONFIDENCE_EDGES):
        inside = (top >= low) & ((top < high) | (high == CONFIDENCE_EDGES[-1]))
        members = finite & inside
        n = int(members.sum())
        mean, error = core.estimate(np.ascontiguousarray(scores.kld[members]))
        share = float(scores.is_same_top[members].mean()) if n else None
        bins.append(
            ConfidenceBin(low, high, n, mean if n else None, error if n > 1 else None, share)
        )
    return tuple(bins)


def _router_layers(router: Mapping[int, tuple[int, int, int]]) -> tuple[RouterLayer, ...]:
    return tuple(
        RouterLayer(layer, same_set / n, same_first / n, n)
        for layer, (n, same_set, same_first) in sorted(router.items())
        if n
    )
