"""Every tolerance of the tests of rows and statistics, measured, with how it was measured.

``python tests/tolerances.py`` measures the table of quantization errors anew and prints it.
"""

from __future__ import annotations

import numpy as np

STATISTICS_RTOL = 1e-10
"""Weight statistics against numpy in long double, relative: the worst of 480 tensors (20 seeds of
the makers in test_gguf_statistics.py) was 1.3e-11, the kurtosis behind an outlier of 1000 sigma;
3e-13 everywhere else."""

STATISTICS_MEAN_ATOL = 1e-14
"""The mean against the largest weight: the worst of the same 480 tensors was 3.3e-16."""

LOG_PROB_RTOL = 1e-6
"""Mean log-probability against a loop in double over the same logits."""

PACKING_ATOL = 1e-4
"""Log-probabilities of sequences computed together against each alone, in nats, in batches below
64 tokens, where the same loops run over other batches; half of them are equal to a millionth."""

PACKING_CACHE_ATOL = 0.02
"""The same with attention, where a key or value can round to the next BF16: 0.002 was found."""

TASK_ANSWERS_DIFFERENT = 0.02
"""Share of items that may be answered otherwise than by llama-perplexity: ggml's attention rounds
differently in batches of 64 tokens and more, which decides near-ties and, in a mixture of experts,
which expert is used. Of 220 items of each kind 0 or 1 were; bench/tasks_vs_llama.py shows how many
llama-perplexity answers otherwise with other batches itself."""

TASK_SCORE_MEDIAN = 0.01
"""Median difference of Winogrande scores from llama-perplexity's, in nats a token, for the same
reason: 0.002 was found; the largest of 440 was 0.17."""
CALIBRATION_RTOL = 5e-6
"""Sums of squared activations against numpy in double: the model computes in float. The worst of 20
seeds of test_imatrix_collect.py's expert model was 6.3e-07."""

UPSTREAM_SUMS_RTOL = 1e-4
"""Sums of squared activations against llama-imatrix, which adds in float: 1e-5 was the largest
difference over 8 chunks of 512 tokens on the demo model. Over 100 chunks it is 1.2e-4, and 8.5e-6
from llama-imatrix in runs of 10 chunks added in double: the rest is upstream's rounding."""

UPSTREAM_STATISTICS_RTOL = 1e-4
"""llama-imatrix --show-statistics adds up to millions of values in float, one after the other."""

FP16_ROUNDING = 2.0**-11
"""Half a unit in the last place of a half: what storing a block's scale may cost."""

TURBO_SAME_BLOCKS = 0.98
"""Share of blocks of 64 values whose levels are those of a search in double; all of 6,144 were."""

TURBO_ERROR = {
    "TURBO2": (0.114371, 5.4e-04),
    "TURBO3": (0.029650, 1.5e-04),
    "TURBO4": (0.007054, 3.3e-05),
}
"""Squared error relative to the values', of 2,000 blocks of Gaussian values: mean and spread of 20
seeds."""

CACHE_ATTENTION = 0.02
"""Norm of the difference from attention in double over the same stored values, relative: queries
are rounded to 8 bits where keys are quantized, sums of values to 16 where nothing is; 0.005 was
found."""

RMSE_SIGMAS = 6
"""How many standard deviations a measured error may be off its mean; 2e-9 for a Gaussian."""

RMSE_SAMPLE_SHAPE = (32, 1024)

RELATIVE_RMSE: dict[tuple[str, bool], tuple[float, float]] = {
    ("F32", False): (0.000000, 0.0e00),
    ("F32", True): (0.000000, 0.0e00),
    ("F16", False): (0.000208, 1.1e-06),
    ("F16", True): (0.000208, 1.1e-06),
    ("Q4_0", False): (0.085788, 4.6e-04),
    ("Q4_0", True): (0.083627, 4.5e-04),
    ("Q4_1", False): (0.078095, 3.5e-04),
    ("Q4_1", True): (0.073145, 3.8e-04),
    ("Q5_0", False): (0.042637, 2.4e-04),
    ("Q5_0", True): (0.041505, 2.5e-04),
    ("Q5_1", False): (0.037795, 1.9e-04),
    ("Q5_1", True): (0.035383, 1.7e-04),
    ("Q8_0", False): (0.005346, 2.8e-05),
    ("Q8_0", True): (0.005346, 2.8e-05),
    ("Q2_K", False): (0.296091, 1.4e-03),
    ("Q2_K", True): (0.283421, 1.5e-03),
    ("Q3_K", False): (0.150741, 7.3e-04),
    ("Q3_K", True): (0.150202, 8.2e-04),
    ("Q4_K", False): (0.071233, 3.3e-04),
    ("Q4_K", True): (0.073799, 3.7e-04),
    ("Q5_K", False): (0.036088, 1.6e-04),
    ("Q5_K", True): (0.036536, 1.8e-04),
    ("Q6_K", False): (0.017711, 7.7e-05),
    ("Q6_K", True): (0.018124, 9.9e-05),
    ("IQ2_XXS", True): (0.362385, 1.4e-03),
    ("IQ2_XS", True): (0.319996, 1.7e-03),
    ("IQ3_XXS", False): (0.213331, 1.2e-03),
    ("IQ3_XXS", True): (0.198724, 1.4e-03),
    ("IQ1_S", True): (0.517958, 2.6e-03),
    ("IQ4_NL", False): (0.076043, 3.0e-04),
    ("IQ4_NL", True): (0.077246, 3.3e-04),
    ("IQ3_S", False): (0.165870, 1.1e-03),
    ("IQ3_S", True): (0.145383, 6.3e-04),
    ("IQ2_S", False): (0.264487, 1.3e-03),
    ("IQ2_S", True): (0.262520, 1.3e-03),
    ("IQ4_XS", False): (0.076618, 3.0e-04),
    ("IQ4_XS", True): (0.077761, 3.4e-04),
    ("IQ1_M", False): (0.581690, 2.7e-03),
    ("IQ1_M", True): (0.491049, 2.4e-03),
    ("BF16", False): (0.001660, 6.5e-06),
    ("BF16", True): (0.001660, 6.5e-06),
    ("TQ1_0", False): (0.806427, 4.5e-03),
    ("TQ1_0", True): (0.806427, 4.5e-03),
    ("TQ2_0", False): (0.806427, 4.5e-03),
    ("TQ2_0", True): (0.806427, 4.5e-03),
    ("MXFP4", False): (0.115006, 6.3e-04),
    ("MXFP4", True): (0.115006, 6.3e-04),
    ("NVFP4", False): (0.095066, 4.1e-04),
    ("NVFP4", True): (0.095066, 4.1e-04),
    ("Q1_0", False): (0.600247, 1.8e-03),
    ("Q1_0", True): (0.600247, 1.8e-03),
    ("Q2_0", False): (0.716642, 2.6e-03),
    ("Q2_0", True): (0.716642, 2.6e-03),
}
"""(type, with importance matrix) -> mean and standard deviation of the relative root mean square
error of one sample() below, over 50 seeds, with ggml's own quantizers (APEX_ISA=portable) of
llama.cpp 0c1e57098. The error of F32 is 0; the ternary types and Q1_0 are as bad as they look."""


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian weights and a log-normal importance matrix, as float32."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(RMSE_SAMPLE_SHAPE).astype(np.float32)
    return weights, rng.lognormal(0, 1, RMSE_SAMPLE_SHAPE[1]).astype(np.float32)


def relative_rmse(type: int, seed: int, with_imatrix: bool) -> float:
    """rms of the error over rms of the weights, of a sample written in that type."""
    from apex_native._native import core

    weights, imatrix = sample(seed)
    stored = core.quantize_rows(weights, type, imatrix if with_imatrix else None)
    restored = core.dequantize_rows(stored, type, weights.shape[1])
    difference = restored.astype(np.float64) - weights
    return float(np.sqrt((difference**2).sum() / (weights.astype(np.float64) ** 2).sum()))


def _measure(n_seeds: int = 50) -> None:
    from apex_native._native import core
    from apex_native.types import GgmlType

    for type in GgmlType:
        for with_imatrix in (False, True):
            needs_imatrix = core.type_traits(type.id)[4]
            if not type.is_target or (needs_imatrix and not with_imatrix):
                continue
            errors = [relative_rmse(type.id, seed, with_imatrix) for seed in range(n_seeds)]
            mean, sigma = np.mean(errors), np.std(errors, ddof=1)
            print(f'    ("{type.name}", {with_imatrix}): ({mean:.6f}, {sigma:.1e}),')


if __name__ == "__main__":
    _measure()

SCORE_RTOL = 1e-12
SCORE_ATOL = 1e-13
"""A position's -ln p and KLD against numpy's 80-bit floats. Over 20 seeds, vocabularies from 2 to
248,320 and three scales of logits the largest error was 5e-12 of the larger of the value and 0.001:
5e-15 absolute for values that small."""

STATISTICS_RTOL = 1e-9
"""Means and standard errors of a few hundred positions against numpy's, which adds pairwise;
variances from sums of squares lose up to the square of mean over deviation, here below 100."""

TWO_PASS_KLD_ATOL = 1e-6
"""Mean KLD in lockstep and from stored hidden states, in nats: the head's product may be computed
for other numbers of columns, where ggml may round differently. Equal on the machines tried."""

BATCH_SHAPE_PPL_RTOL = 2e-3
"""Perplexity of the same model computed on a GPU in batches of another size: other kernels round
differently, and in a mixture of experts one token that goes elsewhere is visible."""

UPSTREAM_PPL_RTOL = 2e-4
"""Perplexity against llama-perplexity's: 2.5e-5 was the largest of three texts of 6 chunks; in a
mixture of experts one token that goes elsewhere by rounding is visible."""

UPSTREAM_KLD_RTOL = 1e-3
UPSTREAM_KLD_ATOL = 1e-4
"""Mean KLD against llama-perplexity: its base file codes log-probabilities in steps of up to 2.4e-4
nats and leaves out what is below e^-16; 8e-5 relative was the largest of three texts."""

UPSTREAM_SAME_TOP_ATOL = 2e-3
"""Share of positions with the same most probable token: 1e-6, its print's rounding, was found;
three of 1,530 positions may be near-ties."""

MOMENT_RTOL = 2e-5
"""Second moments against numpy in double, relative to sqrt(H_ii H_jj): the model computes in float,
and up to 128 products are added in float before they are added in double."""

FEEDBACK_COST_RTOL = 1e-5
"""Cost that error feedback claims for a row against that of its bytes in double, relative to the
row's signal w H w^T: sums of some hundred float products."""

FEW_CHUNKS_COVERAGE = 0.87
"""Share of texts whose 95 % interval holds the difference over all chunks: 0.90 (5
chunks, KLD) is the lowest of 400 texts for 5, 8 and 20 chunks; 200 texts have a standard error of
2 %."""

FLASH_ATTENTION_PPL_RTOL = 5e-3
"""Perplexity with flash attention against without, over 320 positions of a mixture of experts: 8e-4
was found; the two round differently, and a token that goes to another expert is visible."""

SUMS_OF_BLOCKS = 2.0**-23
"""An importance matrix added up block by block against one collection, relative: sums in double in
another order, rounded to float once: at most the last bit, and equal in all that was tried."""

FIT_RTOL = 0.001
"""What plan says a model takes against what llama.cpp allocated: alignment. 2e-6 was the largest of
ten architectures on a CPU."""

FIT_GPU_RTOL = 0.03
"""The same on a GPU, as far as `plan --fit` promises."""

READER_KLD = 0.01
"""KLD between our log-probabilities of a file and another reader's, in nats: its kernels round
inputs otherwise, or not at all. transformers was at 0.001."""

RUNTIME_ATOL = 0.03
"""A token's probability by another build of llama.cpp against ours: 0.0125 was the
largest of 60."""

CACHE_GPU_RTOL = 0.005
"""Caches on a GPU against what their values take: CUDA pads every quantized tensor to rows of 512;
0.0012 was found."""

TENSOR_SHARE_LN = 0.4
"""ln of the factors of four tensors, drawn towards 0, from noise of 0.1 in four layers: the worst
of 400 seeds was 0.35, half of them stay below 0.16; the factors themselves reach 1.5."""
