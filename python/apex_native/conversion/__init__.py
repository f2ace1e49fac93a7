"""Checkpoints in: a folder of safetensors as a source of weights, and as a GGUF file."""

from __future__ import annotations

from apex_native.conversion.folder import is_checkpoint
from apex_native.conversion.opening import ModelInput, open_checkpoint, open_source
from apex_native.conversion.options import ConversionOptions, OutType, Part
from apex_native.conversion.source import CheckpointSource

__all__ = [
    "CheckpointSource",
    "ConversionOptions",
    "ModelInput",
    "OutType",
    "Part",
    "is_checkpoint",
    "open_checkpoint",
    "open_source",
]
