"""Weights and matrices that upset ggml: written soundly or refused, never a crash."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from apex_native._native import core
from apex_native.errors import ImatrixError, QuantizeError
from apex_native.types import GgmlType
from isolation import Isolation

Floats = npt.NDArray[np.float32]


def hard_weights(rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    shape = (4, 512)
    gaussian = rng.standard_normal(shape)
    return {
        "Gaussian": gaussian,
        "one-sided": np.abs(gaussian),
        "constant": np.full(shape, 0.1),
        "-0": np.full(shape, -0.0),
        "denormal": 1e-40 * gaussian,
        "smallest denormal": np.full(shape, 1.4e-45),
        "tiny": 1e-30 * gaussian,
        "largest half": np.full(shape, 65504.0),
        "beyond a half": 1e6 * gaussian,
        "1e30": np.full(shape, 1e30),
        "Gaussian 1e30": 1e30 * gaussian,
        "largest float": np.full(shape, 3.4e38),
        "largest floats of both signs": np.where(np.arange(512) % 2, 3.4e38, -3.4e38)
        + 0 * gaussian,
        "one outlier": np.where(np.arange(512) == 7, 1e30, gaussian),
        "all magnitudes": gaussian * 10.0 ** rng.uniform(-38, 38, shape),
    }


def hard_matrices(rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64] | None]:
    columns = np.arange(512)
    return {
        "none": None,
        "ones": np.ones(512),
        "zeros": np.zeros(512),
        "one column": (columns == 3).astype(float),
        "every second group": (columns // 16 % 2).astype(float),
        "first half": (columns < 256).astype(float),
        "denormal": np.full(512, 1e-42),
        "huge": np.full(512, 3e38),
        "all magnitudes": 10.0 ** rng.uniform(-30, 30, 512),
    }


def hard_inputs() -> Iterator[tuple[str, Floats, Floats | None]]:
    rng = np.random.default_rng(3)
    matrices = hard_matrices(rng)
    for weights_name, weights in hard_weights(rng).items():
        for matrix_name, values in matrices.items():
            matrix = None if values is None else values.astype(np.float32)
            yield f"{weights_name} / {matrix_name}", weights.astype(np.float32), matrix


def quantize_hard_inputs(name: str) -> dict[str, str]:
    """Case -> "" where the result is sound, or what was raised."""
    number = GgmlType[name].id
    outcomes = {}
    for case, weights, matrix in hard_inputs():
        try:
            stored = core.quantize_rows(weights, number, matrix)
            sound = np.isfinite(core.dequantize_rows(stored, number, 512)).all()
            outcomes[case] = "" if sound else "not finite"
        except (QuantizeError, ImatrixError) as error:
            outcomes[case] = type(error).__name__
    return outcomes


def compare_hard_inputs_with_ggml(name: str) -> list[str]:
    """The cases that ggml writes, but we refuse or write otherwise."""
    different = []
    for case, weights, matrix in hard_inputs():
        try:
            expected = core.quantize_rows(weights, GgmlType[name].id, matrix, own_kernel=False)
        except (QuantizeError, ImatrixError):
            continue
        try:
            found = core.quantize_rows(weights, GgmlType[name].id, matrix)
        except QuantizeError as error:
            different.append(f"{case}: {error}")
            continue
        if not np.array_equal(found, expected):
            different.append(case)
    return different


TARGETS = [type.name for type in GgmlType if type.is_target]
# Where an input is too hard for our kernel, ggml decides, and builds its tables for many seconds.
TARGETS_BUT_SLOW = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("IQ1_S", "IQ1_M") else [])
    for name in TARGETS
]


@pytest.mark.parametrize("name", TARGETS_BUT_SLOW)
def test_hard_inputs_are_written_or_refused(isolation: Isolation, name: str) -> None:
    outcome = isolation.run(quantize_hard_inputs, name)
    assert outcome.error == (), outcome.message
    for case, found in outcome.value.items():
        weights, matrix = case.split(" / ")
        if matrix == "none" and core.type_traits(GgmlType[name].id)[4]:
            assert found == "ImatrixError"
        elif weights in ("-0", "denormal", "smallest denormal", "tiny"):
            assert found == "", case  # small numbers are no reason to refuse
        elif weights in ("Gaussian", "one-sided", "constant") and matrix in ("ones", "zeros"):
            assert found == "", case
        else:
            assert found in ("", "QuantizeError"), case


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_hard_inputs_that_ggml_writes_are_written_alike(isolation: Isolation, name: str) -> None:
    outcome = isolation.run(compare_hard_inputs_with_ggml, name)
    assert outcome.error == (), outcome.message
    assert outcome.value == []
