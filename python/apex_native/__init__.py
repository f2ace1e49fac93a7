"""Quantize Mixture-of-Experts models to GGUF, a precision of its own for every role and layer.

    import apex_native as apex

    with apex.open_gguf("model-bf16.gguf") as model:
        plan = apex.make_plan(model, tier="quality")
        manifest = apex.quantize(model, plan, "model-Quality.gguf")

Planning needs no native core; a call that does raises NativeModuleError where it is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from apex_native import errors
from apex_native.errors import (
    ApexError,
    Cancelled,
    CheckpointError,
    CorpusError,
    DataError,
    DeviceError,
    GgufError,
    HubError,
    ImatrixError,
    ModelError,
    NativeModuleError,
    OutputError,
    PlanError,
    QuantizeError,
    ResultsError,
)

if TYPE_CHECKING:
    from apex_native.allocation import search
    from apex_native.api import (
        LoadCheck,
        bench,
        bench_kernels,
        check_load,
        classify,
        convert,
        evaluate,
        gguf_of,
        make_plan,
        report,
        row_offers,
    )
    from apex_native.conversion import CheckpointSource, ConversionOptions, open_checkpoint
    from apex_native.corpus import Corpus, build_corpus, load_recipe, recipe_names
    from apex_native.demo import demo_imatrix, demo_model
    from apex_native.engine import Model, Placement, load_model
    from apex_native.evaluation import (
        EvalResults,
        ModelUnderTest,
        PlannedModel,
        Text,
        TextScorer,
    )
    from apex_native.evaluation.speed import SpeedSettings, speed_grid
    from apex_native.evaluation.tasks import TaskKind, TaskSpec
    from apex_native.gguf import GgufFile, open_gguf
    from apex_native.imatrix import (
        CalibrationText,
        Imatrix,
        calibrate,
        collect_imatrix,
        load_imatrix,
        merge_imatrices,
        save_imatrix,
    )
    from apex_native.plan import About, Edges, Plan, tier_names
    from apex_native.progress_bar import ProgressBar
    from apex_native.quantization import Progress, QuantizeManifest, QuantizeTarget, quantize_many
    from apex_native.quantization import quantize_model as quantize
    from apex_native.results import Results
    from apex_native.sweeps import sweep
    from apex_native.types import (
        Classification,
        ClassifiedTensor,
        GgmlType,
        GgufFacts,
        Role,
        TensorInfo,
    )

__version__ = "0.1.0"

__all__ = [
    "About",
    "ApexError",
    "CalibrationText",
    "Cancelled",
    "CheckpointError",
    "CheckpointSource",
    "Classification",
    "ClassifiedTensor",
    "ConversionOptions",
    "Corpus",
    "CorpusError",
    "DataError",
    "DeviceError",
    "Edges",
    "EvalResults",
    "GgmlType",
    "GgufError",
    "GgufFacts",
    "GgufFile",
    "HubError",
    "Imatrix",
    "ImatrixError",
    "LoadCheck",
    "Model",
    "ModelError",
    "ModelUnderTest",
    "NativeModuleError",
    "OutputError",
    "Placement",
    "Plan",
    "PlanError",
    "PlannedModel",
    "Progress",
    "ProgressBar",
    "QuantizeError",
    "QuantizeManifest",
    "QuantizeTarget",
    "Results",
    "ResultsError",
    "Role",
    "SpeedSettings",
    "TaskKind",
    "TaskSpec",
    "TensorInfo",
    "Text",
    "TextScorer",
    "bench",
    "bench_kernels",
    "build_corpus",
    "calibrate",
    "check_load",
    "classify",
    "collect_imatrix",
    "convert",
    "demo_imatrix",
    "demo_model",
    "errors",
    "evaluate",
    "gguf_of",
    "load_imatrix",
    "load_model",
    "load_recipe",
    "make_plan",
    "merge_imatrices",
    "open_checkpoint",
    "open_gguf",
    "quantize",
    "quantize_many",
    "recipe_names",
    "report",
    "row_offers",
    "save_imatrix",
    "search",
    "speed_grid",
    "sweep",
    "tier_names",
]

# All but the errors comes on first use: a program that needs little waits for little, and Ctrl-C in
# the first moment meets the command's own code and not these imports.
_LAZY = {
    "apex_native.allocation": ("search",),
    "apex_native.api": (
        *("LoadCheck", "bench", "bench_kernels", "check_load", "classify", "convert", "evaluate"),
        *("gguf_of", "make_plan", "report", "row_offers"),
    ),
    "apex_native.conversion": ("CheckpointSource", "ConversionOptions", "open_checkpoint"),
    "apex_native.corpus": ("Corpus", "build_corpus", "load_recipe", "recipe_names"),
    "apex_native.demo": ("demo_imatrix", "demo_model"),
    "apex_native.engine": ("Model", "Placement", "load_model"),
    "apex_native.evaluation": (
        *("EvalResults", "ModelUnderTest", "PlannedModel", "Text", "TextScorer"),
    ),
    "apex_native.evaluation.speed": ("SpeedSettings", "speed_grid"),
    "apex_native.evaluation.tasks": ("TaskKind", "TaskSpec"),
    "apex_native.gguf": ("GgufFile", "open_gguf"),
    "apex_native.imatrix": (
        *("CalibrationText", "Imatrix", "calibrate", "collect_imatrix"),
        *("load_imatrix", "merge_imatrices", "save_imatrix"),
    ),
    "apex_native.plan": ("About", "Edges", "Plan", "tier_names"),
    "apex_native.progress_bar": ("ProgressBar",),
    "apex_native.quantization": (
        *("Progress", "QuantizeManifest", "QuantizeTarget", "quantize_many", "quantize_model"),
    ),
    "apex_native.results": ("Results",),
    "apex_native.sweeps": ("sweep",),
    "apex_native.types": (
        *("Classification", "ClassifiedTensor", "GgmlType", "GgufFacts", "Role", "TensorInfo"),
    ),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}
_SHORTER = {"quantize": "quantize_model"}
"""Names here, and what they are called where they come from."""

_STAGES = (
    *("allocation", "classification", "conversion", "plan", "corpus", "engine", "imatrix"),
    *("quantization", "evaluation", "results", "reports", "sweeps", "types"),
)


def __getattr__(name: str) -> Any:
    if name in _STAGES:
        return importlib.import_module(f"apex_native.{name}")
    source = _SHORTER.get(name, name)
    if name not in __all__ or source not in _MODULE_OF:
        raise AttributeError(f"module 'apex_native' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULE_OF[source]), source)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is to use, lazy names and stages included; nothing that only serves this file."""
    own = [name for name in globals() if name.startswith("__")]
    return sorted({*__all__, *_STAGES, *own})
