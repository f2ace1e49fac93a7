"""How fast: tokens per second of models, and the kernels they are made of."""

from __future__ import annotations

from apex_native.evaluation.speed.json_lines import JsonLines
from apex_native.evaluation.speed.kernels import (
    GPU_OPERATIONS,
    OPERATIONS,
    ROOFLINES,
    KernelProgress,
    KernelSpeed,
    measure_kernels,
    working_set_bytes,
)
from apex_native.evaluation.speed.models import ModelSpeed, ModelSpeedProgress, measure_models
from apex_native.evaluation.speed.records import (
    kernel_record,
    speed_record,
    speed_results,
    speed_rows,
)
from apex_native.evaluation.speed.samples import median_of, spread_of
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
    "JsonLines",
    "KernelProgress",
    "KernelSpeed",
    "ModelSpeed",
    "ModelSpeedProgress",
    "SpeedProgress",
    "SpeedResult",
    "SpeedSettings",
    "kernel_record",
    "measure_kernels",
    "measure_models",
    "measure_speed",
    "median_of",
    "speed_grid",
    "speed_record",
    "speed_results",
    "speed_rows",
    "spread_of",
    "working_set_bytes",
]
