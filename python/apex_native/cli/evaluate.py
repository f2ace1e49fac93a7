"""``apex-native eval``: how far candidates are from their reference, and what they still know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.bench_options import settings_errors
from apex_native.cli.cache_option import warn_of_slow_caches
from apex_native.cli.compute_options import StreamChoices
from apex_native.cli.errors import EXIT_INVALID
from apex_native.cli.eval_options import TextChoices
from apex_native.cli.model_file import loadable, loadable_models
from apex_native.cli.options import ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output
from apex_native.cli.progress import eta_text, show_share
from apex_native.cli.result_tables import show_results
from apex_native.cli.task_options import TaskChoices
from apex_native.cli.task_tables import show_tasks

if TYPE_CHECKING:
    from apex_native.evaluation import EvalResults, EvaluateProgress
    from apex_native.results import Results

__all__ = ["register"]

_STEPS = 1000
"""Of a progress that is known as a share only."""

_LABELS = {"text": "evaluating", "tasks": "tasks", "speed": "speed"}

CandidatesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="CANDIDATES...", help="GGUF models to evaluate.", show_default=False),
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="REF",
        help="The model to compare with, usually the 16-bit one; or the log-probabilities that "
        "llama-perplexity or --save-base wrote, which bring their text. Without it: perplexity "
        "alone.",
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
            "apex-native eval -r model-bf16.gguf *-Q*.gguf -f wiki.txt --chunks 100 -o eval.json",
            "apex-native eval model.gguf -f wiki.txt --ctx 2048",
            "apex-native eval -r model-bf16.gguf mini.gguf --hellaswag hellaswag_val_full.txt",
            "apex-native eval -r model-bf16.gguf model-bf16.gguf -f wiki.txt --type-k q8_0",
        ),
    )(spread(evaluate))


def evaluate(
    text: TextChoices,
    tasks: TaskChoices,
    compute: StreamChoices,
    candidates: CandidatesArgument = None,
    reference: ReferenceOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare models with a reference on a text, in one pass and without a file of logits.

    Chunks, scored positions and statistics are llama-perplexity's. Every KLD stands beside the
    noise floor, and differences between candidates come with intervals and a verdict. Exit code 3:
    a model computes logits that are not finite.
    """
    from apex_native import api
    from apex_native.cli.planning import require_writable

    out = Output(json_mode=json_mode, quiet=quiet)
    _require_request(text, tasks, candidates, reference)
    warn_of_slow_caches(out, [(text.type_k, text.type_v)], on_gpu=compute.placement.on_gpu)
    reference = None if reference is None else loadable(out, reference)
    candidates = loadable_models(out, candidates or [])
    if text.save_base is not None:
        require_writable(text.save_base, force=force)
    with _progress(out) as progress, settings_errors():
        found = api.evaluate(
            reference,
            candidates,
            text.joined(),
            **text.settings(),
            **tasks.settings(),
            placement=replace(compute.placement, flash_attn=text.flash_attn.value),
            known=None if force else _known(output),
            output=output,
            checkpoint=_checkpoint(output, reference, candidates, text, tasks),
            progress=progress,
        )
    out.document(found.results.to_dict())
    if found.results.data is not None:
        show_results(out, found.results)
    show_tasks(out, found.tasks, found.results)
    if output is not None:
        out.text(f"wrote    {output}")
    invalid = _invalid(found)
    if invalid:
        out.warning(f"not finite, and so no valid results: {', '.join(invalid)}")
        raise typer.Exit(EXIT_INVALID)


def _invalid(found: EvalResults) -> list[str]:
    """Models that computed logits which are not finite, over the text or in a task."""
    results = found.results
    models = [*results.candidates, *([results.reference] if results.reference else [])]
    names = [model.name for model in models if model.n_not_finite]
    names += [n for n, scores in found.tasks.items() if any(s.n_not_finite for s in scores)]
    return list(dict.fromkeys(names))


def _require_request(
    text: TextChoices, tasks: TaskChoices, candidates: list[Path] | None, reference: Path | None
) -> None:
    from apex_native.evaluation import is_base_file

    is_base = reference is not None and is_base_file(reference)
    if not candidates and (reference is None or is_base):
        raise typer.BadParameter("name a model to evaluate", param_hint="CANDIDATES")
    if not text.text and not tasks.specs and not is_base:
        raise typer.BadParameter("give a text with --text, or a task such as --hellaswag")


def _known(output: Path | None) -> Results | None:
    """What the output file holds, to be added to."""
    from apex_native.results import Results

    return Results.load(output) if output is not None and output.exists() else None


def _checkpoint(
    output: Path | None,
    reference: Path | None,
    candidates: list[Path],
    text: TextChoices,
    tasks: TaskChoices,
) -> Path:
    """Beside the output or in this folder: a file that no other question has."""
    models = [None if path is None else path.resolve() for path in (reference, *candidates)]
    asked = repr((models, text.text, text.settings(), tasks.settings()))
    digits = hashlib.sha256(asked.encode()).hexdigest()[:8]
    source = text.text[0] if text.text else reference or Path("text")
    beside = Path(f"eval-{source.stem}") if output is None else output
    return beside.with_name(f"{beside.name}-{digits}.partial.npz")


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[EvaluateProgress], None] | None]:
    """The callback for `evaluate`, None when quiet."""
    with show_share(out, _LABELS["text"]) as show:
        if show is None:
            yield None
            return

        def update(progress: EvaluateProgress) -> None:
            state = f"{progress.state}, {eta_text(progress.eta_s)}"
            show(round(progress.share * _STEPS), _STEPS, state, _LABELS[progress.part])

        yield update
