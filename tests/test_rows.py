"""quantize_rows and dequantize_rows of every type, against numpy and the gguf package."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from apex_native._native import core
from apex_native.errors import ImatrixError, QuantizeError
from apex_native.types import GgmlType
from tolerances import (
    FP16_ROUNDING,
    RELATIVE_RMSE,
    RMSE_SIGMAS,
    relative_rmse,
    sample,
)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

TARGETS = [type.name for type in GgmlType if type.is_target]
NEEDING_IMATRIX = ["IQ2_XXS", "IQ2_XS", "IQ1_S"]
IGNORING_IMATRIX = [
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
    "NVFP4",
    "Q1_0",
    "Q2_0",
]
N_PER_ROW = 1024


def quantize(name: str, weights: Floats, imatrix: Floats | None = None) -> Bytes:
    stored: Bytes = core.quantize_rows(weights, GgmlType[name].id, imatrix)
    return stored


def dequantize(name: str, stored: Bytes, n_per_row: int = N_PER_ROW) -> Floats:
    restored: Floats = core.dequantize_rows(stored, GgmlType[name].id, n_per_row)
    return restored


def ones(n: int = N_PER_ROW) -> Floats:
    return np.ones(n, np.float32)


# --- oracles: how stored blocks are read, written in numpy --------------------------------------


def read_q1_0(blocks: Bytes) -> Floats:
    """A half scale and 128 sign bits, the first weight in the lowest bit."""
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little"), scale, -scale)


def read_q2_0(blocks: Bytes) -> Floats:
    """A half scale and 64 levels -1 to 2 in two bits each, the first weight in the lowest."""
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32)
    return scale * (bits[:, ::2] + 2 * bits[:, 1::2] - 1)


OWN_ORACLES: dict[str, Callable[[Bytes], Floats]] = {"Q1_0": read_q1_0, "Q2_0": read_q2_0}
"""Types that are too new for the gguf package."""


def expected_floats(name: str, stored: Bytes) -> Floats:
    if name in OWN_ORACLES:
        blocks = stored.reshape(-1, GgmlType[name].block_bytes)
        return OWN_ORACLES[name](blocks).reshape(stored.shape[0], -1)
    return gguf.dequantize(stored, gguf.GGMLQuantizationType[name]).astype(np.float32)


def with_and_without(names: list[str]) -> list[tuple[str, bool]]:
    return [(n, w) for n in names for w in (False, True) if w or n not in NEEDING_IMATRIX]


@pytest.mark.parametrize(("name", "with_imatrix"), with_and_without(TARGETS))
def test_dequantized_as_the_oracle_does(name: str, with_imatrix: bool) -> None:
    weights, imatrix = sample(seed=7)
    stored = quantize(name, weights, imatrix if with_imatrix else None)
    assert stored.shape == (len(weights), GgmlType[name].row_bytes(N_PER_ROW))
    np.testing.assert_array_equal(dequantize(name, stored), expected_floats(name, stored))


@pytest.mark.parametrize(
    "name", [t.name for t in GgmlType if t.is_quantized and not t.is_cache_only]
)
def test_random_blocks_dequantize_as_the_oracle_does(name: str, rng: np.random.Generator) -> None:
    # Blocks no quantizer would write: every code, also those that are never chosen. Scales are
    # random too; where one is Inf or NaN, so must be the weights.
    if name in ("Q8_1", "Q8_K"):  # activations: no file holds them and nothing reads them
        with pytest.raises(ValueError, match="holds no weights that can be read"):
            dequantize(name, np.zeros(GgmlType[name].row_bytes(N_PER_ROW), np.uint8))
        return
    stored = rng.integers(0, 256, (64, GgmlType[name].row_bytes(N_PER_ROW)), np.uint8)
    with np.errstate(all="ignore"):
        expected = expected_floats(name, stored)
    np.testing.assert_array_equal(dequantize(name, stored), expected)


BIT_EXACT_IN_NUMPY = [
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
]
"""Types the gguf package can write as well."""


@pytest.mark.parametrize("name", BIT_EXACT_IN_NUMPY)
def test_same_bytes_as_the_gguf_package_writes(name: str) -> None:
    weights, _ = sample(seed=8)
    expected = gguf.quantize(weights, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(quantize(name, weights), expected.view(np.uint8))


@pytest.mark.parametrize(("name", "with_imatrix"), with_and_without(TARGETS))
def test_expected_error(name: str, with_imatrix: bool) -> None:
    mean, sigma = RELATIVE_RMSE[name, with_imatrix]
    for seed in (1001, 1002, 1003):  # none of those the table was measured with
        found = relative_rmse(GgmlType[name].id, seed, with_imatrix)
        # The table is rounded to six digits after the point.
        assert abs(found - mean) <= RMSE_SIGMAS * sigma + 5e-7


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in IGNORING_IMATRIX])
def test_matrix_lowers_the_error_it_weighs(name: str) -> None:
    weights, imatrix = sample(seed=9)

    def weighted_error(stored: Bytes) -> float:
        difference = dequantize(name, stored).astype(np.float64) - weights
        return float((imatrix * difference**2).sum())

    plain = quantize(name, weights, ones() if name in NEEDING_IMATRIX else None)
    assert weighted_error(quantize(name, weights, imatrix)) < weighted_error(plain)


@pytest.mark.parametrize("name", IGNORING_IMATRIX)
def test_matrix_is_ignored(name: str) -> None:
    weights, imatrix = sample(seed=9)
    np.testing.assert_array_equal(quantize(name, weights, imatrix), quantize(name, weights))


@pytest.mark.parametrize("name", TARGETS)
def test_rows_are_independent(name: str) -> None:
    weights, imatrix = sample(seed=10)
    together = quantize(name, weights, imatrix)
    for row in (0, 17, 31):
        alone = quantize(name, weights[row : row + 1], imatrix)
        np.testing.assert_array_equal(alone[0], together[row])


# --- inputs that a type holds exactly -----------------------------------------------------------

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
"""Magnitudes of a 4-bit float (OCP Microscaling formats, v1.0)."""

LEVELS: dict[str, tuple[int, list[float], list[float]]] = {
    # block, the levels of a code, those that must occur in every block so that they fix the scale
    "Q4_0": (32, [*range(-8, 8)], [-8]),
    "Q4_1": (32, [*range(16)], [0, 15]),
    "Q5_0": (32, [*range(-16, 16)], [-16]),
    "Q5_1": (32, [*range(32)], [0, 31]),
    "Q8_0": (32, [*range(-127, 128)], [127]),
    "Q3_K": (16, [*range(-4, 4)], [-4]),
    "Q6_K": (16, [*range(-32, 32)], [-32]),
    "TQ1_0": (256, [-1, 0, 1], [1]),
    "TQ2_0": (256, [-1, 0, 1], [1]),
    "Q1_0": (128, [-1, 1], [1]),
    "Q2_0": (64, [-1, 0, 1], [1]),
    "MXFP4": (32, [*E2M1, *(-x for x in E2M1)], [6]),
    "NVFP4": (16, [*E2M1, *(-x for x in E2M1)], [6]),
    "F16": (32, [*range(-2048, 2049)], []),
    "BF16": (32, [*range(-256, 257)], []),
    "F32": (32, [*range(-(2**24), 2**24, 4097)], []),
}
NEARLY: dict[str, tuple[int, list[float], list[float]]] = {
    # the same, but the scale is a product that a half rounds
    "Q2_K": (16, [*range(4)], [0, 3]),
    "Q4_K": (32, [*range(16)], [0, 15]),
    "Q5_K": (32, [*range(32)], [0, 31]),
}


def on_levels(entry: tuple[int, list[float], list[float]], rng: np.random.Generator) -> Floats:
    block, levels, fixed = entry
    weights = rng.choice(levels, (16, N_PER_ROW // block, block))
    weights[..., : len(fixed)] = fixed
    rng.permuted(weights, axis=-1, out=weights)
    return (weights * 2.0**-6).reshape(16, N_PER_ROW).astype(np.float32)


@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_the_type_survive(name: str, rng: np.random.Generator) -> None:
    weights = on_levels(LEVELS[name], rng)
    np.testing.assert_array_equal(dequantize(name, quantize(name, weights)), weights)


@pytest.mark.parametrize("name", NEARLY)
def test_levels_survive_up_to_the_rounding_of_the_scale(
    name: str, rng: np.random.Generator
) -> None:
    weights = on_levels(NEARLY[name], rng)
    restored = dequantize(name, quantize(name, weights))
    limit = FP16_ROUNDING * np.abs(weights).max()
    np.testing.assert_allclose(restored, weights, rtol=0, atol=limit)


@pytest.mark.parametrize(("name", "with_imatrix"), with_and_without(TARGETS))
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_rows_stay_zero(name: str, with_imatrix: bool, zero: float) -> None:
    weights = np.full((3, N_PER_ROW), zero, np.float32)
    for matrix in (ones(), 0 * ones()) if with_imatrix else (None,):
        assert not dequantize(name, quantize(name, weights, matrix)).any()


def test_every_half_is_read_exactly() -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    found = dequantize("F16", halves.view(np.uint8), 2**16)[0]
    expected = halves.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    # as bits, so that -0 is not 0
    np.testing.assert_array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert nan.sum() == 2 * 1023


def test_every_bf16_is_read_exactly() -> None:
    stored = np.arange(2**16, dtype=np.uint16)
    found = dequantize("BF16", stored.view(np.uint8), 2**16)[0]
    np.testing.assert_array_equal(found.view(np.uint32), stored.astype(np.uint32) << 16)


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_finite_half_survives(name: str) -> None:
    stored = np.arange(2**16, dtype=np.uint16)
    weights = dequantize(name, stored.view(np.uint8), 2**16)
    finite = np.isfinite(weights)
    np.testing.assert_array_equal(
        quantize(name, weights[finite][None, :]).view(np.uint16)[0], stored[finite[0]]
    )


# --- refusals -----------------------------------------------------------------------------------

WRONG_ARRAYS: dict[str, Callable[[], object]] = {
    "float64": lambda: np.ones((2, 256)),
    "float16": lambda: np.ones((2, 256), np.float16),
    "transposed": lambda: np.ones((256, 256), np.float32).T[:2],
    "every second column": lambda: np.ones((2, 512), np.float32)[:, ::2],
    "a list": lambda: [[1.0] * 256],
    "None": lambda: None,
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_weights_are_never_converted_silently(case: str) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.quantize_rows(WRONG_ARRAYS[case](), GgmlType.Q8_0.id)


@pytest.mark.parametrize("shape", [(256,), (1, 2, 256), (0, 256), (2, 0), (2, 255), (2, 32)])
def test_weights_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected shape|expected a positive multiple of 256"):
        core.quantize_rows(np.ones(shape, np.float32), GgmlType.Q4_K.id)


@pytest.mark.parametrize("case", [case for case in WRONG_ARRAYS if case != "None"])
def test_matrix_is_never_converted_silently(case: str) -> None:
    weights = np.ones((1, 256), np.float32)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.quantize_rows(weights, GgmlType.Q8_0.id, WRONG_ARRAYS[case]())


def test_matrix_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="imatrix: expected 256 elements, found 255"):
        quantize("Q4_K", np.ones((2, 256), np.float32), ones(255))


@pytest.mark.parametrize("name", NEEDING_IMATRIX)
def test_missing_matrix(name: str) -> None:
    with pytest.raises(ImatrixError, match=f"type {name.lower()} needs an importance matrix"):
        quantize(name, np.ones((1, 256), np.float32))


@pytest.mark.parametrize("bad", [-1.0, -1e-45, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", TARGETS)
def test_matrix_that_is_negative_or_not_finite(name: str, bad: float) -> None:
    matrix = ones()
    matrix[700] = bad
    with pytest.raises(ImatrixError, match=r"column 700 holds .* expected a finite value >= 0"):
        quantize(name, np.ones((1, N_PER_ROW), np.float32), matrix)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", TARGETS)
def test_weights_that_are_not_finite(name: str, bad: float) -> None:
    weights = np.ones((3, N_PER_ROW), np.float32)
    weights[1, 5] = bad
    with pytest.raises(QuantizeError, match="expected finite values, found NaN or Inf"):
        quantize(name, weights, ones())


@pytest.mark.parametrize("number", [4, 31, -1, 1000])
def test_unknown_type(number: int) -> None:
    with pytest.raises(ValueError, match=f"type number {number} is unknown"):
        core.quantize_rows(np.ones((1, 256), np.float32), number)
    with pytest.raises(ValueError, match=f"type number {number} is unknown"):
        core.dequantize_rows(np.zeros(256, np.uint8), number, 256)


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"])
def test_type_that_weights_are_not_written_in(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be written as {name.lower().replace('k', 'K')}"):
        quantize(name, np.ones((1, 256), np.float32))


@pytest.mark.parametrize(("n_bytes", "n_per_row"), [(0, 256), (143, 256), (145, 256), (144, 128)])
def test_stored_bytes_of_the_wrong_size(n_bytes: int, n_per_row: int) -> None:
    with pytest.raises(ValueError, match=r"expected a (positive )?multiple of"):
        dequantize("Q4_K", np.zeros(n_bytes, np.uint8), n_per_row)


@pytest.mark.parametrize("n_per_row", [0, -256, -(2**62)])
def test_rows_of_no_or_negative_length(n_per_row: int) -> None:
    with pytest.raises(ValueError, match="expected a positive multiple of 256"):
        dequantize("Q4_K", np.zeros(144, np.uint8), n_per_row)
