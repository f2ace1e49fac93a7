"""How fast: tokens per second of models, and the kernels they are made of."""

from __future__ import annotations

from apex_native.evaluation.speed.kernels import (
    GPU_OPERATIONS,
    OPERATIONS,
    ROOFLINES,
    KernelProgress,
    KernelSpeed,
    bench_kernels,
    working_set_bytes,
)
from apex_native.evaluation.speed.records import kernel_record, speed_record, speed_results
from apex_native.evaluation.speed.samples import median_of, spread_of
from apex_native.evaluation.speed.subject import SpeedSubject, describe_subject
from apex_native.evaluation.speed.tokens import (
    SpeedProgress,
    SpeedResult,
    SpeedSettings,
    measure_speed,
    speed_grid,
)

__all__ = [
    "GPU_OPERATIONS",
    "OPERATIONS",
    "ROOFLINES",
    "KernelProgress",
    "KernelSpeed",
    "SpeedProgress",
    "SpeedResult",
    "SpeedSettings",
    "SpeedSubject",
    "bench_kernels",
    "describe_subject",
    "kernel_record",
    "measure_speed",
    "median_of",
    "speed_grid",
    "speed_record",
    "speed_results",
    "spread_of",
    "working_set_bytes",
]
