"""Every failure a user can meet, one class each; this module imports nothing.

The native core raises these same classes: `_core` looks them up here once, so
``except apex_native.GgufError`` catches both sides.
"""

from __future__ import annotations

__all__ = [
    "ApexError",
    "Cancelled",
    "CheckpointError",
    "CorpusError",
    "DataError",
    "DeviceError",
    "GgufError",
    "HubError",
    "ImatrixError",
    "ModelError",
    "NativeModuleError",
    "OutputError",
    "PlanError",
    "QuantizeError",
    "ResultsError",
]


class ApexError(Exception):
    """Base of every error this package raises on purpose."""


class GgufError(ApexError, ValueError):
    """A GGUF file is damaged, truncated, or not what the call needs."""


class CheckpointError(ApexError, ValueError):
    """A checkpoint's folder lacks something, is damaged, or upstream cannot convert it."""


class HubError(ApexError, OSError):
    """A model cannot be had from the hub: name, revision, login, network, or a wrong hash."""


class CorpusError(ApexError, ValueError):
    """A calibration text cannot be built: its recipe, a source or the chat template is at fault."""


class ImatrixError(ApexError, ValueError):
    """An importance matrix is damaged or does not fit the model."""


class PlanError(ApexError, ValueError):
    """A plan cannot be made, or its audit found what ``--strict`` forbids."""


class QuantizeError(ApexError, RuntimeError):
    """Weights could not be quantized: NaN or Inf, overflow, or a type the source does not allow."""


class ModelError(ApexError, RuntimeError):
    """llama.cpp cannot load a model or compute with it: architecture, memory, bad logits."""


class DataError(ApexError, ValueError):
    """A text, task file or result file is damaged, too short, or not what the call needs."""


class ResultsError(ApexError, ValueError):
    """A results file is damaged, of another version, or does not belong with the others."""


class OutputError(ApexError, OSError):
    """The output cannot be written: exists already, equals the input, disk full."""


class DeviceError(ApexError, RuntimeError):
    """A GPU is missing, lacks memory, or a CUDA call failed: the message names the call."""


class Cancelled(ApexError):  # noqa: N818  a decision of the caller, not an error
    """The caller stopped the work; what was finished is on disk and can be resumed."""


class NativeModuleError(ApexError, ImportError):
    """The native extension is missing; the message names the cause and the build command."""
