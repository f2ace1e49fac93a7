"""Evaluations to test with: published numbers of a 35B model in thirteen quantizations.

PPL, KLD, tasks, sizes and tg128 are those of the model card of Qwen3.5-35B-A3B-APEX-GGUF; what it
does not state (errors, quantiles, layers, pp512) follows from them by simple rules.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from apex_native.results import (
    Build,
    Candidate,
    ChunkSums,
    Comparison,
    ConfidenceBin,
    McNemar,
    NoiseFloor,
    Reference,
    Results,
    RouterLayer,
    Settings,
    SpeedTest,
    TaskScore,
    TextData,
    Verdict,
    pack_items,
)

GIB = 1 << 30
N_CHUNKS = 145
N_POSITIONS = N_CHUNKS * 1024

BUILD = Build(version="0.1.0", llama_cpp_commit="0c1e57098f00", compiler="GNU 12.2.0")

TEXT = TextData(
    name="wiki.test.raw",
    sha256=hashlib.sha256(b"wiki").hexdigest(),
    n_tokens=297_053,
    n_chunks=N_CHUNKS,
    ctx=2048,
    parse_special=False,
    add_bos=False,
)

SETTINGS = Settings(ctx=2048, n_batch=2048, n_ubatch=512, n_threads=8, device="CPU: AMD EPYC 9R14")

FLOOR = NoiseFloor(
    description="BF16 against itself with ubatch 256",
    kld_mean=2.1e-6,
    kld_se=3.0e-7,
    kld_max=0.0031,
    kld_p999=0.00021,
    kld_median=4.0e-7,
    same_top=0.9995,
    n_positions=N_POSITIONS,
)

TASKS = {
    "hellaswag": (400, 0.25),
    "winogrande": (400, 0.5),
    "mmlu": (1548, 0.25),
    "arc": (299, 0.25),
    "truthfulqa": (817, 0.234),
}

# name, GiB, PPL, KLD mean, KLD max, HS, WG, MMLU, ARC, TQA, tg128
PUBLISHED = (
    ("F16", 64.6, 6.537, None, None, 82.5, 74.5, 41.5, 56.9, 37.2, 30.4),
    ("Q8_0", 34.4, 6.533, 0.0046, 14.71, 83.0, 75.3, 41.2, 57.9, 37.7, 52.5),
    ("APEX-Quality", 21.3, 6.527, 0.0114, 5.85, 83.0, 74.5, 41.2, 56.2, 37.7, 62.3),
    ("APEX-I-Quality", 21.3, 6.552, 0.0102, 5.59, 83.5, 74.5, 41.4, 57.9, 38.4, 63.1),
    ("APEX-Balanced", 23.6, 6.533, 0.0088, 6.03, 83.0, 74.5, 41.3, 56.9, 36.8, 60.8),
    ("APEX-I-Balanced", 23.6, 6.548, 0.0078, 5.77, 83.0, 73.3, 41.0, 57.5, 37.5, 61.4),
    ("APEX-Compact", 16.1, 6.783, 0.0469, 7.56, 82.5, 73.3, 40.9, 55.2, 36.5, 69.8),
    ("APEX-I-Compact", 16.1, 6.669, 0.0332, 5.50, 81.8, 75.0, 41.7, 55.5, 37.9, 69.8),
    ("APEX-Mini", 12.2, 7.088, 0.0870, 5.57, 81.0, 75.5, 41.3, 57.2, 36.7, 74.4),
    ("UD-Q8_K_XL", 45.3, 6.536, 0.0025, 4.36, 82.5, 74.8, 41.3, 57.9, 38.1, 36.4),
    ("UD-Q4_K_L", 18.8, 6.586, 0.0151, 5.98, 82.3, 75.8, 41.1, 59.2, 37.3, 65.5),
    ("IQ2_M", 11.3, 7.303, 0.1113, 6.07, 80.3, 74.0, 39.6, 56.2, 35.0, 76.2),
    ("Q3_K_M", 15.1, 6.730, 0.0420, 5.56, 82.0, 75.0, 41.5, 57.5, 38.8, 60.6),
    # Not published: a file that lost everything, so that chance has to be marked.
    ("IQ1_S", 7.4, 14.62, 0.8123, 11.2, 26.1, 50.9, 24.6, 24.1, 25.2, 79.9),
)

N_MODELS = len(PUBLISHED)


def wilson(n_correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval, from its definition."""
    z, p = 1.959963984540054, n_correct / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def task_score(task: str, percent: float) -> TaskScore:
    """A score near that percentage, with everything that follows from it."""
    n, chance = TASKS[task]
    n_correct = round(percent / 100 * n)
    low, high = wilson(n_correct, n)
    return TaskScore(
        task=task,
        n=n,
        score=n_correct / n,
        low=low,
        high=high,
        chance=chance,
        distinguishable_from_chance=not low <= chance <= high,
        data_sha256=hashlib.sha256(task.encode()).hexdigest(),
        selection=f"first {n}",
        items=pack_items([i * 7919 % n < n_correct for i in range(n)]),
    )


def speed_tests(tg128: float) -> tuple[SpeedTest, ...]:
    return tuple(
        SpeedTest(
            test=test,
            n_threads=8,
            type_k="f16",
            type_v="f16",
            median=speed,
            samples=tuple(speed * (1 + 0.004 * k) for k in (-2, 1, 0, -1, 3)),
            n_batch=2048,
            n_ubatch=512,
            device="CPU: AMD EPYC 9R14",
        )
        for test, speed in (("pp512", 900 + 9 * tg128), ("tg128", tg128))
    )


def router(kld: float, n_layers: int) -> tuple[RouterLayer, ...]:
    """Agreement falls with depth and with the divergence."""
    loss = 0.6 * math.tanh(4 * math.sqrt(kld))
    layers = []
    for layer in range(n_layers):
        depth = (layer + 1) / n_layers
        wave = 0.02 * math.sin(1.7 * layer)
        layers.append(
            RouterLayer(
                layer=layer,
                same_set=min(1.0, 1 - loss * (0.3 + 0.7 * depth) + loss * wave),
                same_top1=min(1.0, 1 - 0.4 * loss * (0.3 + 0.7 * depth) - loss * wave / 2),
                n_tokens=N_POSITIONS,
            )
        )
    return tuple(layers)


def confidence_bins(kld: float) -> tuple[ConfidenceBin, ...]:
    edges = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    shares = (0.2, 0.25, 0.2, 0.15, 0.2)
    scales = (1.6, 1.4, 1.1, 0.6, 0.1)
    return tuple(
        ConfidenceBin(
            low=low,
            high=high,
            n_positions=int(share * N_POSITIONS),
            kld_mean=kld * scale,
            kld_se=kld * scale / 90,
            same_top=1 - math.sqrt(kld) * scale / 3,
        )
        for low, high, share, scale in zip(edges, edges[1:], shares, scales, strict=False)
    )


def candidate(index: int, *, n_layers: int = 40) -> Candidate:
    """The published model of that row."""
    name, size, ppl, kld, kld_max, *scores, tg128 = PUBLISHED[index]
    assert kld is not None
    ratio = math.log(ppl / PUBLISHED[0][2])
    change = 0.2 * math.sqrt(kld)
    return Candidate(
        name=f"Qwen3.5-35B-A3B-{name}.gguf",
        bytes=int(size * GIB),
        bpw=size * GIB * 8 / 34.66e9,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        ppl=ppl,
        ppl_se=0.0063 * ppl,
        ln_ppl_ratio=ratio,
        ln_ppl_ratio_se=0.002 * math.sqrt(kld),
        ln_ppl_correlation=1 - 0.05 * kld,
        kld_mean=kld,
        kld_se=kld / 90,
        kld_max=kld_max,
        kld_p999=30 * kld / (1 + 3 * kld),
        kld_p99=9 * kld,
        kld_p95=4 * kld,
        kld_p90=2.5 * kld,
        kld_median=0.2 * kld,
        delta_p_mean=-0.1 * change,
        delta_p_mean_se=0.005 * change,
        delta_p_rms=change,
        delta_p_rms_se=0.01 * change,
        delta_p_p001=-6 * change / 2,
        delta_p_p999=5 * change / 2,
        same_top=1 - math.sqrt(kld) / 3,
        same_top_se=0.0005,
        n_positions=N_POSITIONS,
        n_not_finite=0,
        chunks=ChunkSums(
            n_positions=(1024,) * N_CHUNKS,
            nll=tuple(1024 * math.log(ppl) + math.sin(i) for i in range(N_CHUNKS)),
            kld=tuple(1024 * kld * (1 + 0.1 * math.cos(i)) for i in range(N_CHUNKS)),
        ),
        kld_by_confidence=confidence_bins(kld),
        router_agreement=router(kld, n_layers),
        tasks=tuple(task_score(task, s) for task, s in zip(TASKS, scores, strict=True)),
        speed=speed_tests(tg128),
    )


def reference() -> Reference:
    name, size, ppl, _, _, *scores, tg128 = PUBLISHED[0]
    return Reference(
        name=f"Qwen3.5-35B-A3B-{name}.gguf",
        bytes=int(size * GIB),
        bpw=16.0,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        ppl=ppl,
        ppl_se=0.0413,
        n_positions=N_POSITIONS,
        n_not_finite=0,
        tasks=tuple(task_score(task, s) for task, s in zip(TASKS, scores, strict=True)),
        speed=speed_tests(tg128),
    )


def comparison(first: Candidate, second: Candidate, metric: str) -> Comparison:
    """Their difference with an interval of a tenth of the larger."""
    values = {
        "kld_mean": (first.kld_mean or 0.0, second.kld_mean or 0.0),
        "ln_ppl": (math.log(first.ppl or 1.0), math.log(second.ppl or 1.0)),
    }[metric]
    difference = values[0] - values[1]
    half = 0.1 * max(first.kld_mean or 0.0, second.kld_mean or 0.0)
    low, high = difference - half, difference + half
    if low <= 0 <= high:
        verdict = Verdict.NOT_DISTINGUISHABLE
    else:
        verdict = Verdict.BETTER if high < 0 else Verdict.WORSE
    return Comparison(
        *(first.name, second.name, metric, difference, low, high, verdict),
        n_chunks=N_CHUNKS,
        n_resamples=10_000,
        seed=1,
    )


def evaluation(n_candidates: int, *, n_layers: int = 40) -> Results:
    """The first so many published quantizations, evaluated together."""
    candidates = tuple(candidate(i + 1, n_layers=n_layers) for i in range(n_candidates))
    return Results(
        build=BUILD,
        created="2026-11-25T03:00:00Z",
        candidates=candidates,
        reference=reference(),
        data=TEXT,
        tokenizer=hashlib.sha256(b"vocabulary").hexdigest(),
        settings=SETTINGS,
        noise_floor=FLOOR,
        comparisons=tuple(
            comparison(a, b, metric)
            for metric in ("kld_mean", "ln_ppl")
            for i, a in enumerate(candidates)
            for b in candidates[i + 1 :]
        ),
    )


def with_mcnemar(results: Results) -> Results:
    """The first candidate's HellaSwag compared with the second's."""
    first, second, *others = results.candidates
    test = McNemar(second.name, 13, 11, 0.84, Verdict.NOT_DISTINGUISHABLE)
    hellaswag = replace(first.tasks[0], comparisons=(test,))
    return replace(
        results,
        candidates=(replace(first, tasks=(hellaswag, *first.tasks[1:])), second, *others),
    )
