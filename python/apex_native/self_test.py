"""Is this installation sound? What it runs on, and a second of real work whose result is known."""

from __future__ import annotations

import math
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

from apex_native._native import core
from apex_native.atomic_write import nearest_folder
from apex_native.demo import cache_folder, demo_model
from apex_native.errors import ApexError
from apex_native.machine import cpu_features, cpu_name, free_memory, usable_threads
from apex_native.quantization import list_gpus
from apex_native.types import GgmlType

__all__ = ["QUICK_TYPES", "CheckResult", "Environment", "describe_environment", "run_self_test"]

_QUICK_NAMES = "F16 BF16 Q4_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ3_S IQ4_NL IQ4_XS MXFP4 NVFP4"

QUICK_TYPES = tuple(GgmlType[name] for name in _QUICK_NAMES.split())
"""One or more of each family, without those whose search tables take seconds to build."""

_ROWS, _ROW = 8, 1024

_FLOAT_STEP = {GgmlType.F32: 0.0, GgmlType.F16: 2.0**-11, GgmlType.BF16: 2.0**-8}
"""Largest relative error of rounding to nearest: half a unit of 11 and of 8 bits of significand."""

_WORST_RATIO = 4.0
"""How far a sound format may be from the rate-distortion bound.

No code of b bits a weight can have a relative RMSE below 2^-b on Gaussian weights (Shannon). ggml's
formats reach 1.3 to 2.3 times that, Q2_0 and TQ2_0 (three levels in two bits) 3.4; a wrong scale
or a wrong index is off by far more.
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions and machine; None where this system does not tell. Memory and disk in bytes."""

    python: str
    packages: dict[str, str]
    build: dict[str, Any] | None
    system: str
    cpu: str
    cpu_features: tuple[str, ...]
    n_threads: int
    memory_free: int | None
    cache_folder: str
    disk_free: int
    gpus: tuple[str, ...] = ()
    gpu_problem: str | None = None
    """Why no GPU can be used."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of the self test."""

    name: str
    passed: bool
    detail: str


def describe_environment() -> Environment:
    """Look around; nothing here raises, a missing native core leaves ``build`` None."""
    try:
        build: dict[str, Any] | None = core.build_info()
    except ApexError:
        build = None
    folder = cache_folder()
    gpus, gpu_problem = _gpus()
    return Environment(
        python=sys.version.split()[0],
        packages={name: metadata.version(name) for name in ("numpy", "rich", "typer")},
        build=build,
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_features=cpu_features(),
        n_threads=usable_threads(),
        memory_free=free_memory(),
        cache_folder=str(folder),
        disk_free=shutil.disk_usage(nearest_folder(folder)).free,
        gpus=gpus,
        gpu_problem=gpu_problem,
    )


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """What `--device` can be, or why there is none."""
    try:
        return tuple(f"cuda:{gpu.number} {gpu.name}" for gpu in list_gpus()), None
    except ApexError as error:
        return (), str(error)


def run_self_test(types: tuple[GgmlType, ...] = QUICK_TYPES) -> tuple[CheckResult, ...]:
    """Load the core, quantize random rows to each type, load and run the demo model."""
    checks: list[tuple[str, Callable[[], str]]] = [("native core", _check_core)]
    checks += [(f"type {type.name}", partial(_check_type, type)) for type in types]
    checks.append(("demo model", _check_demo_model))
    return tuple(_checked(name, check) for name, check in checks)


class _CheckError(Exception):
    """A check's verdict; its text says what was found."""


def _checked(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except (_CheckError, ApexError, OSError) as error:
        return CheckResult(name, False, str(error))


def _check_core() -> str:
    info = core.build_info()
    return f"version {info['version']}, llama.cpp {info['llama_cpp_commit']}"


def _check_type(type: GgmlType) -> str:
    import numpy as np

    weights = np.random.default_rng(type.id).standard_normal((_ROWS, _ROW), dtype=np.float32)
    # Equal importance everywhere: some types refuse to work without a matrix.
    stored = core.quantize_rows(weights, type.id, np.ones(_ROW, np.float32))
    if stored.nbytes != type.tensor_bytes(weights.shape):
        raise _CheckError(f"{stored.nbytes} bytes, expected {type.tensor_bytes(weights.shape)}")
    found = core.dequantize_rows(stored.reshape(-1), type.id, _ROW)
    if type in _FLOAT_STEP:
        # Below 2^-14 F16 is subnormal and its step absolute: 2^-24.
        worst = float(np.max(np.abs(found - weights) / np.maximum(np.abs(weights), 2.0**-13)))
        limit, what = _FLOAT_STEP[type], "largest relative error"
    else:
        worst = math.sqrt(float(np.sum((found - weights) ** 2) / np.sum(weights**2)))
        limit, what = min(1.0, _WORST_RATIO * 2.0**-type.bpw), "relative RMSE"
    text = f"{what} {worst:.2e}, at most {limit:.2e}"
    if not worst <= limit:
        raise _CheckError(text)
    return text


def _check_demo_model() -> str:
    from apex_native.api import check_load
    from apex_native.demo_text import SANITY_SEED, demo_text

    result = check_load(demo_model(), demo_text(1000, seed=SANITY_SEED))
    guessing = math.log(result.n_vocab)
    text = f"{result.mean_nll or 0:.3f} nats per token, guessing has {guessing:.3f}"
    if result.mean_nll is None or not result.mean_nll < guessing:
        raise _CheckError(text)
    return text
