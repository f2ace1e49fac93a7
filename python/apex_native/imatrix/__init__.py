"""Importance matrices: collected here, read, written, merged, judged and put to use.

Input: a model and text, or files of llama.cpp's formats. Output: an `Imatrix`, mean squared
activations per weight column and expert, float32, ready for the quantizers.
"""

from __future__ import annotations

from apex_native.imatrix.all_experts import with_all_experts
from apex_native.imatrix.calibration import calibrate
from apex_native.imatrix.calibration_text import CalibrationText, open_text
from apex_native.imatrix.collect import (
    DEFAULT_BATCH,
    DEFAULT_CONTEXT,
    DEFAULT_UBATCH,
    collect_imatrix,
    plan_collection,
)
from apex_native.imatrix.coverage import Coverage, RouterCoverage, expert_coverage
from apex_native.imatrix.entries import Imatrix, ImatrixEntry
from apex_native.imatrix.files import as_imatrix, load_imatrix, save_imatrix
from apex_native.imatrix.heatmap import save_heatmap
from apex_native.imatrix.hessian import Hessian, InputMoment
from apex_native.imatrix.hessian_file import HessianFile, save_hessian
from apex_native.imatrix.importance import Importance
from apex_native.imatrix.layered import LayeredHessian, MomentWindow
from apex_native.imatrix.merge import merge_imatrices
from apex_native.imatrix.missing import MissingData, missing_data
from apex_native.imatrix.prior import DEFAULT_PRIOR, Prior, parse_prior
from apex_native.imatrix.progress import ImatrixProgress
from apex_native.imatrix.statistics import (
    LayerStatistics,
    TensorStatistics,
    layer_statistics,
    tensor_statistics,
)
from apex_native.imatrix.texts import read_text

__all__ = [
    "DEFAULT_BATCH",
    "DEFAULT_CONTEXT",
    "DEFAULT_PRIOR",
    "DEFAULT_UBATCH",
    "CalibrationText",
    "Coverage",
    "Hessian",
    "HessianFile",
    "Imatrix",
    "ImatrixEntry",
    "ImatrixProgress",
    "Importance",
    "InputMoment",
    "LayerStatistics",
    "LayeredHessian",
    "MissingData",
    "MomentWindow",
    "Prior",
    "RouterCoverage",
    "TensorStatistics",
    "as_imatrix",
    "calibrate",
    "collect_imatrix",
    "expert_coverage",
    "layer_statistics",
    "load_imatrix",
    "merge_imatrices",
    "missing_data",
    "open_text",
    "parse_prior",
    "plan_collection",
    "read_text",
    "save_heatmap",
    "save_hessian",
    "save_imatrix",
    "tensor_statistics",
    "with_all_experts",
]
