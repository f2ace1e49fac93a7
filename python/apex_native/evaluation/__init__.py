"""What models can still do: the stage after quantization.

    found = Evaluation(EvaluationRequest(reference, candidates, text)).run()

Input: models under test, of files or in memory, and a text, tasks or speed tests. Output:
`EvalResults`. `apex_native.evaluate` is the same with plain arguments.
"""

from __future__ import annotations

from apex_native.engine import Placement
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.reference import is_base_file
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.text import Text, read_text
from apex_native.evaluation.evaluation import EvalResults, Evaluation
from apex_native.evaluation.model_source import ModelFile, ModelSource
from apex_native.evaluation.model_under_test import AnyModel, ModelUnderTest
from apex_native.evaluation.planned_model import PlannedModel
from apex_native.evaluation.progress import EvaluateProgress
from apex_native.evaluation.request import (
    EvaluationRequest,
    as_model,
    as_models,
    as_reference,
    as_request,
)
from apex_native.evaluation.tasks import TaskOptions
from apex_native.evaluation.text_scorer import TextScorer

__all__ = [
    "AnyModel",
    "EvalResults",
    "EvaluateProgress",
    "Evaluation",
    "EvaluationRequest",
    "ModelFile",
    "ModelSource",
    "ModelUnderTest",
    "Placement",
    "PlannedModel",
    "TaskOptions",
    "Text",
    "TextOptions",
    "TextScorer",
    "TokenScores",
    "as_model",
    "as_models",
    "as_reference",
    "as_request",
    "is_base_file",
    "read_text",
]
