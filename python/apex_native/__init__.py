"""Quantize Mixture-of-Experts models to GGUF, a precision of its own for every role and layer.

    import apex_native as apex

    with apex.open_gguf("model-bf16.gguf") as model:
        plan = apex.make_plan(model, tier="quality")
        manifest = apex.quantize(model, plan, "model-APEX-Quality.gguf")

Planning needs no native core; a call that does raises NativeModuleError where it is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from apex_native import errors
from apex_native.api import LoadCheck, check_load, classify, evaluate, make_plan
from apex_native.errors import (
    ApexError,
    Cancelled,
    DataError,
    DeviceError,
    GgufError,
    ImatrixError,
    ModelError,
    NativeModuleError,
    OutputError,
    PlanError,
    QuantizeError,
    ResultsError,
)
from apex_native.gguf import GgufFile, open_gguf
from apex_native.plan import Edges, Plan, tier_names
from apex_native.quantization import Progress, QuantizeManifest
from apex_native.quantization import quantize_model as quantize
from apex_native.types import (
    Classification,
    ClassifiedTensor,
    GgmlType,
    GgufFacts,
    Role,
    TensorInfo,
)

if TYPE_CHECKING:
    from apex_native.corpus import Corpus, build_corpus, load_recipe, recipe_names
    from apex_native.demo import demo_imatrix, demo_model
    from apex_native.engine import Model, load_model
    from apex_native.imatrix import (
        Imatrix,
        collect_imatrix,
        load_imatrix,
        merge_imatrices,
        save_imatrix,
    )

__version__ = "0.1.0"

__all__ = [
    "ApexError",
    "Cancelled",
    "Classification",
    "ClassifiedTensor",
    "Corpus",
    "CorpusError",
    "DataError",
    "DeviceError",
    "Edges",
    "GgmlType",
    "GgufError",
    "GgufFacts",
    "GgufFile",
    "Imatrix",
    "ImatrixError",
    "LoadCheck",
    "Model",
    "ModelError",
    "NativeModuleError",
    "OutputError",
    "Plan",
    "PlanError",
    "Progress",
    "QuantizeError",
    "QuantizeManifest",
    "ResultsError",
    "Role",
    "TensorInfo",
    "build_corpus",
    "check_load",
    "classify",
    "collect_imatrix",
    "demo_imatrix",
    "demo_model",
    "errors",
    "evaluate",
    "load_imatrix",
    "load_model",
    "load_recipe",
    "make_plan",
    "merge_imatrices",
    "open_gguf",
    "quantize",
    "recipe_names",
    "save_imatrix",
    "tier_names",
]

# What needs numpy, or data that is unpacked, comes on first use: `apex-native --help` is quick.
_LAZY = {
    "Corpus": "apex_native.corpus",
    "Imatrix": "apex_native.imatrix",
    "Model": "apex_native.engine",
    "build_corpus": "apex_native.corpus",
    "collect_imatrix": "apex_native.imatrix",
    "demo_imatrix": "apex_native.demo",
    "demo_model": "apex_native.demo",
    "load_imatrix": "apex_native.imatrix",
    "load_model": "apex_native.engine",
    "load_recipe": "apex_native.corpus",
    "merge_imatrices": "apex_native.imatrix",
    "recipe_names": "apex_native.corpus",
    "save_imatrix": "apex_native.imatrix",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'apex_native' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
