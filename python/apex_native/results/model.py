"""What one evaluation file says of a model: metrics, tasks and speed.

Units, everywhere: shares, scores and probabilities are fractions of 1 (never percent), KLD and
NLL are in nats, sizes in bytes, bpw in bits, speed in tokens per second. None means "not
measured" or "not finite" (`n_not_finite` and `n_values_not_finite` count the latter).
"""

from __future__ import annotations

from dataclasses import dataclass

from apex_native.results.tasks import TaskScore

__all__ = [
    *("Candidate", "ChunkSums", "ConfidenceBin", "MeasuredModel", "Reference", "RouterLayer"),
    "SpeedTest",
]


@dataclass(frozen=True, slots=True)
class ChunkSums:
    """Sums over the scored positions of each chunk, so that a later evaluation can be paired.

    All arrays have one entry a chunk, in the order of the text. n_positions counts the finite
    positions that were summed; nll sums the negative log-likelihoods of the text's own tokens,
    kld the divergences from the reference (empty for the reference and without one).
    """

    n_positions: tuple[int, ...] = ()
    nll: tuple[float | None, ...] = ()
    kld: tuple[float | None, ...] = ()

    def __repr__(self) -> str:
        return f"ChunkSums({len(self.n_positions)} chunks)"


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """Positions where the reference's most probable token has a probability in [low, high)."""

    low: float
    high: float
    n_positions: int
    kld_mean: float | None = None
    kld_se: float | None = None
    same_top: float | None = None


@dataclass(frozen=True, slots=True)
class RouterLayer:
    """Share of n_tokens for which a layer's router chose as the reference's did.

    same_set: the same set of top-k experts; same_top1: the same first expert.
    """

    layer: int
    same_set: float | None
    same_top1: float | None
    n_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class SpeedTest:
    """One speed test: "pp512" (prompt tokens per second) or "tg128" (generated ones).

    samples are the repetitions in the order they were run, median is theirs. flash_attn is what was
    asked for.
    """

    test: str
    n_threads: int
    type_k: str
    type_v: str
    median: float
    samples: tuple[float, ...] = ()
    n_batch: int | None = None
    n_ubatch: int | None = None
    flash_attn: str = "auto"
    device: str | None = None
    """What computed, as people name it: "CPU: AMD EPYC 9R14", "NVIDIA H100 80GB"."""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What results say of any model: which it is, and what was measured of it alone.

    fingerprint is `apex_native.fingerprint.model_fingerprint`'s: cheaper than a hash of the whole
    file. n_positions counts scored positions, n_not_finite those of them left out of every average
    because a logit was NaN or infinite; first_not_finite says where such a value appears first, as
    "layer 3".
    """

    name: str
    bytes: int | None = None
    bpw: float | None = None
    path: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    ppl: float | None = None
    ppl_se: float | None = None
    n_positions: int | None = None
    n_not_finite: int | None = None
    first_not_finite: str | None = None
    chunks: ChunkSums | None = None
    tasks: tuple[TaskScore, ...] = ()
    speed: tuple[SpeedTest, ...] = ()

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.bytes is not None:
            parts.append(f"{self.bytes:,} bytes")
        parts += self._figures()
        parts += [f"{score.task}={score.score:.3f}" for score in self.tasks]
        parts += [f"{test.test}={test.median:.4g} tokens/s" for test in self.speed[:4]]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _figures(self) -> list[str]:
        return [] if self.ppl is None else [f"ppl={self.ppl:.4f}"]


@dataclass(frozen=True, slots=True, repr=False)
class Reference(MeasuredModel):
    """The model that candidates are compared with, usually the 16-bit file."""


@dataclass(frozen=True, slots=True, repr=False)
class Candidate(MeasuredModel):
    """One model under test; definitions are llama-perplexity's.

    ln_ppl_ratio is ln(PPL / PPL of the reference). kld_p999 is the 99.9 % quantile, and so on.
    delta_p is the probability of the text's own token here minus there. same_top is the share of
    positions whose most probable token is the reference's. type_k and type_v are set where they
    differ from the settings of the file: the KV cache itself is then under test.
    """

    type_k: str | None = None
    type_v: str | None = None
    ln_ppl_ratio: float | None = None
    ln_ppl_ratio_se: float | None = None
    ln_ppl_correlation: float | None = None
    kld_mean: float | None = None
    kld_se: float | None = None
    kld_max: float | None = None
    kld_p999: float | None = None
    kld_p99: float | None = None
    kld_p95: float | None = None
    kld_p90: float | None = None
    kld_median: float | None = None
    kld_p10: float | None = None
    kld_p05: float | None = None
    kld_p01: float | None = None
    kld_p001: float | None = None
    kld_min: float | None = None
    delta_p_mean: float | None = None
    delta_p_mean_se: float | None = None
    delta_p_rms: float | None = None
    delta_p_rms_se: float | None = None
    delta_p_max: float | None = None
    delta_p_p999: float | None = None
    delta_p_p99: float | None = None
    delta_p_p95: float | None = None
    delta_p_p90: float | None = None
    delta_p_p75: float | None = None
    delta_p_median: float | None = None
    delta_p_p25: float | None = None
    delta_p_p10: float | None = None
    delta_p_p05: float | None = None
    delta_p_p01: float | None = None
    delta_p_p001: float | None = None
    delta_p_min: float | None = None
    same_top: float | None = None
    same_top_se: float | None = None
    kld_by_confidence: tuple[ConfidenceBin, ...] = ()
    router_agreement: tuple[RouterLayer, ...] = ()

    def _figures(self) -> list[str]:
        kld = [] if self.kld_mean is None else [f"kld_mean={self.kld_mean:.6f}"]
        # Without its arguments super() means the class before slots were made.
        return [*super(Candidate, self)._figures(), *kld]
