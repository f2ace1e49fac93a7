"""One evaluation from question to results: what to compute, in which order, kept as it comes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apex_native.evaluation.divergence.run import TextJob, score_text
from apex_native.evaluation.divergence.scores import ScoreProgress, TokenScores
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import ModelUnderTest, unique_name
from apex_native.evaluation.progress import EvaluateProgress
from apex_native.evaluation.record import find_row, reference_row, results_of
from apex_native.evaluation.request import EvaluationRequest
from apex_native.evaluation.results_file import ResultsFile
from apex_native.evaluation.side_by_side import side_by_side
from apex_native.evaluation.speed import (
    ModelSpeed,
    ModelSpeedProgress,
    measure_models,
    speed_rows,
)
from apex_native.evaluation.tasks import TaskProgress, evaluate_tasks, open_tasks
from apex_native.evaluation.tasks.checkpoint import TaskCheckpoint
from apex_native.gpu_layers import CONTEXT_BYTES, MARGIN_BYTES, free_gpu_bytes
from apex_native.machine import usable_threads
from apex_native.requirements import Work, look_at_together, require_able
from apex_native.results import Results, TaskScore, merge_results, same_model

__all__ = ["EvalResults", "Evaluation"]


@dataclass(frozen=True, slots=True)
class EvalResults:
    """What was found: `results` as they are stored, and what this run measured, by model.

    tokens has every scored position of a text, the reference's under its own name; models whose
    numbers were taken over from earlier results have none. tasks and speed are this run's.
    """

    results: Results
    tokens: Mapping[str, TokenScores] = field(default_factory=dict)
    tasks: Mapping[str, tuple[TaskScore, ...]] = field(default_factory=dict)
    speed: tuple[ModelSpeed, ...] = ()

    def __repr__(self) -> str:
        return f"EvalResults({self.results!r})"

    def _repr_html_(self) -> str:
        return self.results._repr_html_()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON; OutputError."""
        self.results.save(Path(path))


class Evaluation:
    """Plans what to compute, loads, scores, keeps what is finished and merges it."""

    def __init__(self, request: EvaluationRequest) -> None:
        """Name the models and read the task files; DataError. No model is loaded yet."""
        self.request = request
        reference = request.reference
        self.reference = reference if isinstance(reference, ModelUnderTest) else None
        self.tasks = open_tasks(request.tasks)
        self.candidates = self._named()
        self.results = request.known
        self._file = None if request.output is None else ResultsFile(request.output, request.known)
        if request.wants_text and not request.speed:
            self._place_side_by_side()

    def _place_side_by_side(self) -> None:
        """Models compute at the same time on GPUs of their own; speed is that of all GPUs."""
        models = self.models
        room = CONTEXT_BYTES + MARGIN_BYTES
        placed = side_by_side(list(models.values()), free_gpu_bytes(), room)
        if self.reference is not None:
            self.reference, *placed = placed
        self.candidates = dict(zip(self.candidates, placed, strict=True))

    def _named(self) -> dict[str, ModelUnderTest]:
        """Candidates by name: the one that earlier results use, else one that nobody has."""
        known = self.request.known
        taken = {self.reference.name} if self.reference is not None else set()
        if known is not None:
            taken |= {row.name for row in known.candidates}
        named: dict[str, ModelUnderTest] = {}
        for model in self.request.candidates:
            row = find_row(known, model)
            is_free = row is not None and row.name not in named
            name = row.name if row is not None and is_free else unique_name(model, taken)
            taken.add(name)
            named[name] = model
        return named

    @property
    def models(self) -> dict[str, ModelUnderTest]:
        """All models by name, the reference first."""
        first = {} if self.reference is None else {self.reference.name: self.reference}
        return {**first, **self.candidates}

    def run(self) -> EvalResults:
        """Compute; what is finished is in the output file even if something later stops it."""
        tokens: Mapping[str, TokenScores] = {}
        scores: dict[str, tuple[TaskScore, ...]] = {}
        speed: tuple[ModelSpeed, ...] = ()
        self._require_able()
        with ModelPool() as pool:
            if self.request.wants_text:
                tokens = self._score_text(pool)
            if self.tasks:
                scores = self._ask_tasks(pool)
            if self.request.speed:
                speed = self._measure_speed(pool)
        assert self.results is not None
        return EvalResults(self.results, tokens, scores, speed)

    def _require_able(self) -> None:
        """What is asked must be possible with every model, before one is loaded."""
        asked = {
            Work.EVALUATION: self.request.wants_text,
            Work.TASKS: bool(self.tasks),
            Work.SPEED: bool(self.request.speed),
        }
        look_at_together([model.source.path for model in self.models.values()], usable_threads())
        for model in self.models.values():
            for work in (work for work, wanted in asked.items() if wanted):
                require_able(model.source.path, work)

    def _keep(self, results: Results) -> None:
        self.results = results
        if self._file is not None:
            self._file.save(results)

    def _merged(self, new: Results, base: Results | None) -> Results:
        return new if base is None else merge_results([base, new])

    def _score_text(self, pool: ModelPool) -> Mapping[str, TokenScores]:
        request, known = self.request, self.results
        has_text = known is not None and known.data is not None
        found = score_text(
            TextJob(
                reference=self.reference or request.reference,
                candidates=self.candidates,
                text=request.text,
                options=request.text_options,
                known=known if has_text else None,
                save_base=request.save_base,
                checkpoint=request.checkpoint,
                progress=self._show_text,
            ),
            pool,
        )
        self._keep(found.results if has_text else self._merged(found.results, known))
        return found.tokens

    def _show_text(self, progress: ScoreProgress) -> None:
        if self.request.progress is not None:
            state = f"{progress.n_chunks_done}/{progress.n_chunks} chunks"
            self.request.progress(
                EvaluateProgress("text", progress.share, state, progress.elapsed_s)
            )

    def _ask_tasks(self, pool: ModelPool) -> dict[str, tuple[TaskScore, ...]]:
        before = self.results
        finished: dict[str, tuple[TaskScore, ...]] = {}

        def keep(name: str, scores: tuple[TaskScore, ...]) -> None:
            finished[name] = scores
            self._keep_tasks(finished, before)

        checkpoint = self._task_checkpoint()
        scores = evaluate_tasks(
            self.models,
            self.tasks,
            compat=self.request.tasks.compat,
            skip_too_long=self.request.tasks.skip_too_long,
            pool=pool,
            known=self._tasks_known(),
            checkpoint=checkpoint,
            progress=self._show_tasks,
            finished=keep,
        )
        self._keep_tasks(scores, before)
        if checkpoint is not None:
            checkpoint.remove()
        return scores

    def _task_checkpoint(self) -> TaskCheckpoint | None:
        path = self.request.checkpoint
        if path is None:
            return None
        return TaskCheckpoint(path.with_name(f"{path.name.removesuffix('.npz')}.tasks.npz"))

    def _tasks_known(self) -> dict[str, tuple[TaskScore, ...]]:
        """Scores that the results have already, by the models' names here."""
        if self.results is None:
            return {}
        found = {}
        for name, model in self.candidates.items():
            row = find_row(self.results, model)
            if row is not None:
                found[name] = row.tasks
        reference = self.results.reference
        ours = None if self.reference is None else reference_row(self.reference)
        if ours is not None and reference is not None and same_model(ours, reference):
            found[ours.name] = reference.tasks
        return found

    def _keep_tasks(
        self, scores: Mapping[str, tuple[TaskScore, ...]], before: Results | None
    ) -> None:
        fields = {name: {"tasks": own} for name, own in scores.items()}
        new = results_of(self.reference, self.candidates, fields)
        self._keep(self._merged(new, before))

    def _show_tasks(self, progress: TaskProgress) -> None:
        if self.request.progress is not None:
            state = f"{progress.model}: {progress.task}"
            self.request.progress(
                EvaluateProgress("tasks", progress.done, state, progress.elapsed_s)
            )

    def _measure_speed(self, pool: ModelPool) -> tuple[ModelSpeed, ...]:
        before = self.results
        finished: dict[str, ModelSpeed] = {}

        def keep(speed: ModelSpeed) -> None:
            finished[speed.name] = speed
            fields = {name: {"speed": speed_rows(own.results)} for name, own in finished.items()}
            new = results_of(self.reference, self.candidates, fields)
            self._keep(self._merged(new, before))

        return measure_models(
            self.models,
            self.request.speed,
            own_caches=True,
            pool=pool,
            progress=self._show_speed,
            finished=keep,
        )

    def _show_speed(self, progress: ModelSpeedProgress) -> None:
        if self.request.progress is not None:
            state = f"{progress.model}: {progress.test.test}"
            self.request.progress(
                EvaluateProgress("speed", progress.share, state, progress.elapsed_s)
            )
