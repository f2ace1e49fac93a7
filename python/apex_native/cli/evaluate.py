"""``apex-native eval``: how far candidates are from their reference, and what they still know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.eval_options import TextChoices
from apex_native.cli.options import ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output
from apex_native.cli.progress import eta_text, show_share
from apex_native.cli.result_tables import show_results
from apex_native.cli.task_options import CompatChoice, TaskChoices, show_tasks, task_progress

if TYPE_CHECKING:
    from apex_native.evaluation.models import EvaluateProgress
    from apex_native.results import Results, TaskScore

__all__ = ["register"]

_STEPS = 1000
"""Of a progress that is known as a share only."""

CandidatesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="CANDIDATES...", help="GGUF models to evaluate.", show_default=False),
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="REF.gguf",
        help="The model to compare with, usually the 16-bit one; without it: perplexity alone.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Results as JSON, for `report`. Where it exists, candidates are added to it and what "
        "it holds is not computed again.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "eval",
        short_help="Perplexity, KL divergence, router agreement and tasks.",
        epilog=examples(
            "apex-native eval --reference model-bf16.gguf quality.gguf mini.gguf --text wiki.txt",
            "apex-native eval -r model-bf16.gguf *.gguf -f wiki.txt --chunks 100 -o eval.json",
            "apex-native eval model.gguf -f wiki.txt --ctx 2048",
            "apex-native eval -r model-bf16.gguf mini.gguf --hellaswag hellaswag_val_full.txt",
            "apex-native eval -r model-bf16.gguf model-bf16.gguf -f wiki.txt --type-k q8_0",
        ),
    )(spread(evaluate))


def evaluate(
    text: TextChoices,
    tasks: TaskChoices,
    compute: ComputeChoices,
    candidates: CandidatesArgument = None,
    reference: ReferenceOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare models with a reference on a text, in one pass and without a file of logits.

    Chunks, scored positions and statistics are llama-perplexity's. Every KLD stands beside the
    noise floor, and differences between candidates come with intervals and a verdict.
    """
    session = _Session(
        Output(json_mode=json_mode, quiet=quiet), text, compute, candidates or [], reference, output
    )
    _check(session, tasks)
    known = session.known(force=force)
    results = session.text_results(known) if text.wanted else known
    scores: dict[str, tuple[TaskScore, ...]] = {}
    if tasks.specs:
        results, scores = session.task_results(tasks, results)
    assert results is not None
    session.save(results)
    session.out.document(results.to_dict())
    if results.data is not None:
        show_results(session.out, results)
    show_tasks(session.out, scores)
    if output is not None:
        session.out.text(f"wrote    {output}")


def _check(session: _Session, tasks: TaskChoices) -> None:
    text = session.text
    if not session.candidates and session.reference is None:
        raise typer.BadParameter("name a model to evaluate", param_hint="CANDIDATES")
    if not text.wanted and not tasks.specs:
        raise typer.BadParameter("give a text with --text, or a task such as --hellaswag")
    if text.base is not None and session.reference is not None:
        raise typer.BadParameter("--base stands in the place of --reference; give one of them")
    if text.base is not None and not session.candidates:
        raise typer.BadParameter("name a model to compare with --base", param_hint="CANDIDATES")


class _Session:
    """One call of the verb: what was asked for, and where its results go."""

    def __init__(
        self,
        out: Output,
        text: TextChoices,
        compute: ComputeChoices,
        candidates: list[Path],
        reference: Path | None,
        output: Path | None,
    ) -> None:
        self.out = out
        self.text = text
        self.compute = compute
        self.candidates = candidates
        self.reference = reference
        self.output = output

    def known(self, *, force: bool) -> Results | None:
        """What the output file holds, to be added to."""
        from apex_native.results import Results

        if self.output is None or force or not self.output.exists():
            return None
        return Results.load(self.output)

    def save(self, results: Results) -> None:
        if self.output is not None:
            results.save(self.output)

    def text_results(self, known: Results | None) -> Results:
        from apex_native.evaluation.models import evaluate_models

        has_text = known is not None and known.data is not None
        with _progress(self.out) as progress:
            found = evaluate_models(
                self.text.base or self.reference,
                self.candidates,
                self.text.text,
                known=known if has_text else None,
                checkpoint=self._checkpoint(),
                progress=progress,
                **self.text.settings(),
                **self.compute.settings(),
            ).results
        results = found if has_text else _merged(known, found)
        self.save(results)
        return results

    def _checkpoint(self) -> Path:
        if self.output is not None:
            return self.output.with_name(f"{self.output.name}.partial.npz")
        source = self.text.text or self.text.base or Path("text")
        return Path(f"eval-{source.stem}.partial.npz")

    def task_results(
        self, tasks: TaskChoices, known: Results | None
    ) -> tuple[Results, dict[str, tuple[TaskScore, ...]]]:
        """The results with the tasks' scores; every finished model is written at once."""
        from apex_native.evaluation.task_results import TaskModels
        from apex_native.evaluation.tasks import ScoringOptions, evaluate_tasks
        from apex_native.types import GgmlType

        type_k, type_v = (
            GgmlType[choice.value.upper()] for choice in (self.text.type_k, self.text.type_v)
        )
        models = TaskModels(self.reference, self.candidates, type_k, type_v)
        finished: dict[str, tuple[TaskScore, ...]] = {}

        def keep(name: str, scores: tuple[TaskScore, ...]) -> None:
            finished[name] = scores
            self.save(_merged(known, models.results(finished)))

        with task_progress(self.out) as progress:
            scores = evaluate_tasks(
                models.paths,
                tasks.specs,
                n_tasks=tasks.tasks_limit,
                compat=tasks.compat is CompatChoice.UPSTREAM,
                options=ScoringOptions(type_k=type_k, type_v=type_v),
                load=self.compute.load,
                progress=progress,
                finished=keep,
            )
        return _merged(known, models.results(scores)), scores


def _merged(first: Results | None, second: Results) -> Results:
    from apex_native.results import merge_results

    return second if first is None else merge_results([first, second])


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[EvaluateProgress], None] | None]:
    """The callback for `evaluate_models`, None when quiet."""
    with show_share(out, "evaluating") as show:
        if show is None:
            yield None
            return

        def update(progress: EvaluateProgress) -> None:
            state = (
                f"{progress.n_chunks_done}/{progress.n_chunks} chunks, {eta_text(progress.eta_s)}"
            )
            show(round(progress.share * _STEPS), _STEPS, state)

        yield update
