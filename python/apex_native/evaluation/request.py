"""What an evaluation is asked for, checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_native.argument_kinds import require_kind
from apex_native.engine import Placement
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.reference import AnyReference, is_base_file
from apex_native.evaluation.divergence.text import Text, read_text
from apex_native.evaluation.model_source import ModelSource
from apex_native.evaluation.model_under_test import AnyModel, ModelUnderTest, require_attention
from apex_native.evaluation.progress import ShowProgress
from apex_native.evaluation.speed import SpeedSettings
from apex_native.evaluation.tasks import TaskOptions
from apex_native.results import Results
from apex_native.types import GgmlType

__all__ = ["EvaluationRequest", "as_model", "as_models", "as_reference", "as_request"]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Models, and what to measure of them: a text, tasks, speed tests, or several of these.

    known: results to add to; what they hold of the text is not computed again. output: where
    results are written whenever a part is finished. See `apex_native.evaluate`. Raises ValueError
    for what cannot be asked.
    """

    reference: AnyReference
    candidates: tuple[ModelUnderTest, ...]
    text: Text | None = None
    text_options: TextOptions = field(default_factory=TextOptions)
    tasks: TaskOptions = field(default_factory=TaskOptions)
    speed: tuple[SpeedSettings, ...] = ()
    known: Results | None = None
    output: Path | None = None
    save_base: Path | None = None
    checkpoint: Path | None = None
    progress: ShowProgress | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if not self.candidates and not isinstance(self.reference, ModelUnderTest):
            raise ValueError("an evaluation needs at least one model")
        if not (self.wants_text or self.tasks.specs or self.speed):
            raise ValueError("an evaluation needs a text, a task or a speed test")
        if any(model.placement.one_at_a_time for model in self.models):
            if self.tasks.specs or self.speed:
                raise ValueError("gpu_memory is for texts; measure tasks and speed without it")
            if self.text_options.n_ubatch is not None:
                raise ValueError("n_ubatch: gpu_memory decides how many tokens go together")
        for model in self.models:
            require_attention(model.type_v, model.placement.flash_attn)
        if self.save_base is not None and (self.reference is None or not self.wants_text):
            raise ValueError("save_base needs a reference and a text")
        if isinstance(self.reference, ModelUnderTest) and self.reference.has_own_cache:
            raise ValueError(
                "the reference computes with an F16 KV cache; "
                "name the model as a candidate too to measure another"
            )

    @property
    def models(self) -> tuple[ModelUnderTest, ...]:
        """All of them, the reference first."""
        first = (self.reference,) if isinstance(self.reference, ModelUnderTest) else ()
        return (*first, *self.candidates)

    @property
    def wants_text(self) -> bool:
        """A text is to be scored; a base file brings its own."""
        return self.text is not None or isinstance(self.reference, Path)


def as_model(
    model: AnyModel,
    *,
    type_k: str | GgmlType = GgmlType.F16,
    type_v: str | GgmlType = GgmlType.F16,
    placement: Placement | None = None,
) -> ModelUnderTest:
    """The model under test; what is one already keeps its cache, and a placement of its own."""
    if isinstance(model, ModelUnderTest):
        return model.placed(placement)
    require_kind(
        *("model", model, (str, os.PathLike, ModelSource)),
        "give its path, a ModelUnderTest or a PlannedModel",
    )
    return ModelUnderTest(model, type_k=type_k, type_v=type_v, placement=placement)


def as_reference(reference: AnyModel | None, placement: Placement | None = None) -> AnyReference:
    """The reference: a model, the path of a base file of llama-perplexity, or None."""
    if reference is None:
        return None
    if isinstance(reference, str | os.PathLike) and is_base_file(Path(reference)):
        return Path(reference)
    return as_model(reference, placement=placement)


def as_models(
    models: Sequence[AnyModel] | AnyModel,
    *,
    type_k: str | GgmlType = GgmlType.F16,
    type_v: str | GgmlType = GgmlType.F16,
    placement: Placement | None = None,
) -> tuple[ModelUnderTest, ...]:
    """Several of them, or one."""
    if isinstance(models, str | os.PathLike | ModelUnderTest | ModelSource):
        models = (models,)
    return tuple(
        as_model(model, type_k=type_k, type_v=type_v, placement=placement) for model in models
    )


def as_request(
    reference: AnyModel | None,
    candidates: Sequence[AnyModel],
    text: str | os.PathLike[str] | Text | None,
    text_options: TextOptions,
    *,
    type_k: str | GgmlType,
    type_v: str | GgmlType,
    placement: Placement,
    **rest: Any,
) -> EvaluationRequest:
    """A request from what users give: paths, names, sources. Raises what looking at them raises.

    rest: further fields of the request.
    """
    return EvaluationRequest(
        reference=as_reference(reference, placement),
        candidates=as_models(candidates, type_k=type_k, type_v=type_v, placement=placement),
        text=text if text is None or isinstance(text, Text) else read_text(text),
        text_options=text_options,
        **rest,
    )
