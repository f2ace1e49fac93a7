"""Carry out a plan on the weights of a GGUF file."""

from __future__ import annotations

from apex_native.quantization.device import (
    DeviceUse,
    Gpu,
    list_gpus,
    made_where_there_is_room,
    start_driver,
)
from apex_native.quantization.feedback import (
    METHOD,
    HessianSource,
    OutputErrors,
    feedback_for,
    with_hessian_metadata,
)
from apex_native.quantization.manifest import QuantizeManifest, RoleError, TensorRecord
from apex_native.quantization.prediction import PredictedFile, dry_run
from apex_native.quantization.progress import Progress
from apex_native.quantization.proportion import error_bound
from apex_native.quantization.run import (
    DEFAULT_MAX_MEMORY,
    QuantizeTarget,
    quantize_many,
    quantize_model,
)
from apex_native.quantization.underflow import underflow_findings

__all__ = [
    "DEFAULT_MAX_MEMORY",
    "METHOD",
    "DeviceUse",
    "Gpu",
    "HessianSource",
    "OutputErrors",
    "PredictedFile",
    "Progress",
    "QuantizeManifest",
    "QuantizeTarget",
    "RoleError",
    "TensorRecord",
    "dry_run",
    "error_bound",
    "feedback_for",
    "list_gpus",
    "made_where_there_is_room",
    "quantize_many",
    "quantize_model",
    "start_driver",
    "underflow_findings",
    "with_hessian_metadata",
]
