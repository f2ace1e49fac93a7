"""``apex-native eval``: how far candidates are from their reference, and what they still know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from apex_native.printable import counted

if TYPE_CHECKING:
    from apex_native.evaluation import EvalResults, EvaluateProgress, Text
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
        "it holds is not computed again. With --by-text a folder.",
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
            "apex-native eval -r model-bf16.gguf plain.gguf fitted.gguf -f held-out --by-text",
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
    from apex_native.cli.planning import require_writable

    out = Output(json_mode=json_mode, quiet=quiet)
    _require_request(text, tasks, candidates, reference)
    warn_of_slow_caches(out, [(text.type_k, text.type_v)], on_gpu=compute.placement.on_gpu)
    texts = text.each() if text.by_text else {}
    reference = None if reference is None else loadable(out, reference)
    candidates = loadable_models(out, candidates or [])
    if text.save_base is not None:
        require_writable(text.save_base, force=force)
    asked = _Asked(out, reference, candidates, text, tasks, compute, force)
    if text.by_text:
        by_text = _each_text(asked, texts, output)
        _exit_if_invalid(out, by_text.values())
        return
    found = asked.evaluate(text.joined(), text.text, output)
    out.document(found.results.to_dict())
    if found.results.data is not None:
        show_results(out, found.results)
    show_tasks(out, found.tasks, found.results)
    if output is not None:
        out.text(f"wrote    {output}")
    _exit_if_invalid(out, [found])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command line, to be answered for one text or for several."""

    out: Output
    reference: Path | None
    candidates: list[Path]
    text: TextChoices
    tasks: TaskChoices
    compute: StreamChoices
    force: bool

    def evaluate(
        self,
        text: Path | Text | None,
        paths: list[Path] | None,
        output: Path | None,
        label: str = "",
    ) -> EvalResults:
        """Results for a text, which was read from paths; output and label are this text's."""
        from apex_native import api

        placement = self.compute.placement
        with _progress(self.out, label) as progress, settings_errors():
            return api.evaluate(
                self.reference,
                self.candidates,
                text,
                **self.text.settings(),
                **self.tasks.settings(),
                placement=replace(placement, flash_attn=self.text.flash_attn.value),
                known=None if self.force else _known(output),
                output=output,
                checkpoint=self._checkpoint(paths, output),
                progress=progress,
            )

    def _checkpoint(self, paths: list[Path] | None, output: Path | None) -> Path:
        """Beside the output or in this folder: a file that no other question has."""
        models = [
            None if path is None else path.resolve() for path in (self.reference, *self.candidates)
        ]
        asked = repr((models, paths, self.text.settings(), self.tasks.settings()))
        digits = hashlib.sha256(asked.encode()).hexdigest()[:8]
        source = paths[0] if paths else self.reference or Path("text")
        beside = Path(f"eval-{source.stem}") if output is None else output
        return beside.with_name(f"{beside.name}-{digits}.partial.npz")


def _each_text(
    asked: _Asked, texts: Mapping[str, Path], folder: Path | None
) -> dict[str, EvalResults]:
    """Text after text, and what candidates gain on each."""
    from apex_native.atomic_write import make_folder
    from apex_native.cli.text_gain_table import show_text_gains
    from apex_native.reports import text_gains

    if folder is not None:
        make_folder(folder)
    found = {}
    for name, path in texts.items():
        output = None if folder is None else folder / f"{name}.json"
        found[name] = asked.evaluate(path, [path], output, label=name)
    gains = text_gains({name: one.results for name, one in found.items()})
    asked.out.document(
        {
            "gains": [asdict(gain) for gain in gains],
            "texts": {name: one.results.to_dict() for name, one in found.items()},
        }
    )
    show_text_gains(asked.out, gains)
    if folder is not None:
        asked.out.text(f"wrote    {counted(len(found), 'file')} in {folder}")
    return found


def _exit_if_invalid(out: Output, found: Iterable[EvalResults]) -> None:
    invalid = list(dict.fromkeys(name for one in found for name in _invalid(one)))
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


@contextmanager
def _progress(out: Output, name: str) -> Iterator[Callable[[EvaluateProgress], None] | None]:
    """The callback for `evaluate`, None when quiet; name: of a text among several."""
    with show_share(out, _LABELS["text"]) as show:
        if show is None:
            yield None
            return

        def update(progress: EvaluateProgress) -> None:
            state = f"{progress.state}, {eta_text(progress.eta_s)}"
            label = " ".join([_LABELS[progress.part], name]).rstrip()
            show(round(progress.share * _STEPS), _STEPS, state, label)

        yield update
