"""The self test finds what is broken, and says so in the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from apex_native import self_test
from apex_native._native import core
from apex_native.errors import NativeModuleError
from apex_native.types import GgmlType
from cli_tools import invoke

Array = npt.NDArray[Any]


class BrokenCore:
    """The native core with a fault in how rows are read back."""

    def __init__(self, fault: Callable[[Array], Array]) -> None:
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(core, name)

    def dequantize_rows(self, stored: Array, type: int, n_per_row: int) -> Array:
        return self._fault(core.dequantize_rows(stored, type, n_per_row))


def failed(document: str) -> set[str]:
    return {row["name"] for row in json.loads(document)["checks"] if not row["passed"]}


@pytest.mark.parametrize(
    "fault",
    [
        lambda weights: np.roll(weights, 1),  # values in the wrong place
        lambda weights: -weights,
        lambda weights: np.full_like(weights, np.nan),
        lambda weights: 2 * weights,  # a wrong scale
    ],
    ids=["shifted", "negated", "nan", "scaled"],
)
def test_wrong_arithmetic_is_found_in_every_type(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Array], Array]
) -> None:
    monkeypatch.setattr(self_test, "core", BrokenCore(fault))
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert failed(result.stdout) == {f"type {type.name}" for type in self_test.QUICK_TYPES}


def test_a_small_error_in_a_float_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "core", BrokenCore(lambda weights: 1.005 * weights))
    result = invoke("doctor", "--json")
    assert failed(result.stdout) == {"type F16", "type BF16"}


def test_a_missing_core_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class MissingCore:
        def __getattr__(self, name: str) -> Any:
            raise NativeModuleError("the native core could not be loaded; build it")

    monkeypatch.setattr(self_test, "core", MissingCore())
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "native core missing" in result.stdout
    assert "FAILED  the native core could not be loaded" in result.stdout


def test_the_quick_test_has_a_type_of_every_family() -> None:
    families = {type.name.rstrip("0123456789_KMNLSX") for type in self_test.QUICK_TYPES}
    assert families == {"F", "BF", "Q", "IQ", "MXFP", "NVFP"}


@pytest.mark.slow
def test_every_type_is_sound() -> None:
    result = invoke("doctor", "--full", "--json")
    assert result.exit_code == 0
    names = {row["name"] for row in json.loads(result.stdout)["checks"]}
    assert {f"type {type.name}" for type in GgmlType if type.is_target} <= names
