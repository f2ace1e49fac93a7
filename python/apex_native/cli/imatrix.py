"""``apex-native imatrix``: collect, merge and judge importance matrices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.compute_options import StreamChoices
from apex_native.cli.errors import UsageError
from apex_native.cli.model_file import loadable
from apex_native.cli.options import RUN, ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix, MissingData

__all__ = ["register"]

WHAT = "What to collect"
MOST_TOKENS = 1 << 30
"""At once: the limit of `collect_imatrix`."""
REPORT = "Reports"


class ScopeChoice(StrEnum):
    """Which weights: see `apex_native.imatrix.collect_imatrix`."""

    EVERYTHING = "everything"
    UPSTREAM = "upstream"


class FormatChoice(StrEnum):
    """llama.cpp's two formats."""

    GGUF = "gguf"
    DAT = "dat"


@dataclass(frozen=True)
class CollectChoices:
    """What is collected."""

    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", metavar="TEXT", help="Calibration text, UTF-8; several are joined."
        ),
    ] = None
    ctx: Annotated[
        int,
        typer.Option(
            "--ctx", "-c", min=2, metavar="N", rich_help_panel=WHAT, help="Chunk, tokens."
        ),
    ] = 512
    chunks: Annotated[
        int | None,
        typer.Option(
            "--chunks", "--max-chunks", min=1, metavar="N", rich_help_panel=WHAT,
            show_default="all", help="Chunks at most.",
        ),
    ] = None  # fmt: skip
    skip_chunks: Annotated[
        int,
        typer.Option(min=0, metavar="N", rich_help_panel=WHAT, help="Skip the first N chunks."),
    ] = 0
    min_expert_tokens: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", rich_help_panel=WHAT,
            help="End as soon as every expert has seen N tokens.",
        ),
    ] = 0  # fmt: skip
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special", rich_help_panel=WHAT,
            help="Text that spells a special token (<|im_start|>) becomes it.",
        ),
    ] = False  # fmt: skip
    all_experts: Annotated[
        bool,
        typer.Option(
            "--all-experts", rich_help_panel=WHAT,
            help="One more pass with every expert active, kept beside the first, for "
            "`quantize --prior all-experts:K`.",
        ),
    ] = False  # fmt: skip
    scope: Annotated[
        ScopeChoice,
        typer.Option(
            "--scope", rich_help_panel=WHAT,
            help="Every weight that is multiplied, output and MTP block included, or what "
            "llama-imatrix collects.",
        ),
    ] = ScopeChoice.EVERYTHING  # fmt: skip
    batch: Annotated[
        int,
        typer.Option("--batch", "-b", min=1, max=MOST_TOKENS, metavar="N", rich_help_panel=RUN,
                     help="Tokens handed over at once: N / ctx chunks, rounded down."),
    ] = 2048  # fmt: skip
    ubatch: Annotated[
        int | None,
        typer.Option("--ubatch", min=1, max=MOST_TOKENS, metavar="N", rich_help_panel=RUN,
                     show_default="512, on a GPU 2048", help="Tokens computed at once."),
    ] = None  # fmt: skip
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, metavar="CHUNKS", rich_help_panel=RUN,
                     show_default="twice a minute", help="How often to note how far it is."),
    ] = None  # fmt: skip
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=RUN, help="Go on with an interrupted collection."),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `apex_native.imatrix.calibrate`."""
        return {
            "ctx": self.ctx,
            "skip_chunks": self.skip_chunks,
            "max_chunks": self.chunks,
            "min_expert_tokens": self.min_expert_tokens,
            "parse_special": self.parse_special,
            "all_experts": self.all_experts,
            "scope": self.scope.value,
            "batch": self.batch,
            "ubatch": self.ubatch,
            "checkpoint_every": self.checkpoint_every,
            "resume": self.resume,
        }


@dataclass(frozen=True)
class ReportChoices:
    """Where to write what was found."""

    in_file: Annotated[
        list[Path] | None,
        typer.Option("--in-file", metavar="IMATRIX", help="A matrix to add; repeatable."),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", show_default="imatrix.gguf", help="File to write."
        ),
    ] = None
    hessian: Annotated[
        Path | None,
        typer.Option(
            "--hessian", metavar="OUT",
            help="Write the second moments of all inputs too, for `quantize --hessian`: large.",
        ),
    ] = None  # fmt: skip
    format: Annotated[
        FormatChoice | None,
        typer.Option(
            "--format", show_default="by the name",
            help="gguf, or the older dat, which drops the experts' counts.",
        ),
    ] = None  # fmt: skip
    show_statistics: Annotated[
        Path | None,
        typer.Option(
            "--show-statistics", metavar="IMATRIX", rich_help_panel=REPORT,
            help="Print the figures of a matrix and its coverage; collect nothing.",
        ),
    ] = None  # fmt: skip
    coverage: Annotated[
        Path | None,
        typer.Option(
            "--coverage", metavar="PATH.json", rich_help_panel=REPORT,
            help="Write the tokens of every expert.",
        ),
    ] = None  # fmt: skip
    heatmap: Annotated[
        Path | None,
        typer.Option(
            "--heatmap", metavar="PATH.png", rich_help_panel=REPORT,
            help="Draw the tokens of every expert.",
        ),
    ] = None  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "imatrix",
        short_help="Collect an importance matrix.",
        epilog=examples(
            "apex-native imatrix model-bf16.gguf -f calibration.txt -o imatrix.gguf",
            "apex-native imatrix model-bf16.gguf -f text.txt --min-expert-tokens 64 --chunks 400",
            "apex-native imatrix model-bf16.gguf -f text.txt --all-experts --heatmap experts.png",
            "apex-native imatrix model-bf16.gguf -f text.txt --resume",
            "apex-native imatrix model-bf16.gguf -f text.txt --hessian hessian.gguf",
            "apex-native imatrix --in-file a.gguf --in-file b.gguf -o both.gguf",
            "apex-native imatrix --show-statistics imatrix.gguf",
        ),
    )(spread(imatrix))


def imatrix(
    collected: CollectChoices,
    reported: ReportChoices,
    compute: StreamChoices,
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="GGUF model with 16- or 32-bit weights."),
    ] = None,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Collect the squared activations that quantizers weigh errors with, expert by expert.

    The file is llama.cpp's: llama-quantize reads it. Safe to interrupt: --resume goes on.
    """
    from apex_native.cli.imatrix_report import show_matrix
    from apex_native.cli.planning import require_writable

    out = Output(json_mode=json_mode, quiet=quiet)
    _require_consistent(model, collected, reported)
    for path in (reported.coverage, reported.heatmap):
        if path is not None:
            require_writable(path, force=force)
    missing: list[MissingData] = []
    if reported.show_statistics is not None:
        from apex_native.imatrix import load_imatrix

        matrix = load_imatrix(reported.show_statistics)
    else:
        matrix, missing = _make(out, model, collected, reported, compute, force)
    show_matrix(
        out, matrix, missing,
        wanted=collected.min_expert_tokens,
        statistics=reported.show_statistics is not None,
    )  # fmt: skip
    _write_reports(out, matrix, reported)


def _require_consistent(
    model: Path | None, collected: CollectChoices, reported: ReportChoices
) -> None:
    if reported.show_statistics is not None:
        if model is not None or collected.file or reported.in_file or reported.output:
            raise typer.BadParameter(
                "reads a matrix and makes none; leave out MODEL, -f, --in-file and -o",
                param_hint="--show-statistics",
            )
    elif reported.hessian is not None and model is None:
        raise typer.BadParameter(
            "is collected from a MODEL and a text; give both", param_hint="--hessian"
        )
    elif (model is None) != (not collected.file):
        raise UsageError("a collection takes a MODEL and a text, -f TEXT; give both")
    elif model is None and not reported.in_file:
        raise UsageError("give a MODEL and -f TEXT, or --in-file, or --show-statistics")


def _make(
    out: Output,
    model: Path | None,
    collected: CollectChoices,
    reported: ReportChoices,
    compute: StreamChoices,
    force: bool,
) -> tuple[Imatrix, list[MissingData]]:
    """Collect, merge, or collect and merge, and write the result."""
    from apex_native.cli.imatrix_report import warn_of_missing
    from apex_native.cli.planning import require_writable
    from apex_native.cli.progress import imatrix_progress
    from apex_native.gguf import open_gguf
    from apex_native.imatrix import calibrate, load_imatrix, merge_imatrices, save_imatrix

    output = reported.output or Path("imatrix.gguf")
    format = reported.format or FormatChoice("dat" if output.suffix == ".dat" else "gguf")
    added = [load_imatrix(path) for path in reported.in_file or ()]
    model = None if model is None else loadable(out, model)
    if model is None:
        require_writable(output, force=force)
        return save_imatrix(merge_imatrices(added), output, format=format.value), []
    with imatrix_progress(out) as progress:
        matrix = calibrate(
            model,
            collected.file or [],
            **collected.settings(),
            placement=compute.placement,
            added=added,
            output=output,
            hessian=reported.hessian,
            format=format.value,
            force=force,
            progress=progress,
        )
    with open_gguf(model) as file:
        return matrix, warn_of_missing(out, matrix, file.facts)


def _write_reports(out: Output, matrix: Imatrix, reported: ReportChoices) -> None:
    import json

    from apex_native.atomic_write import write_atomically
    from apex_native.imatrix import expert_coverage, save_heatmap

    coverage = expert_coverage(matrix)
    if reported.coverage is not None:
        text = json.dumps(coverage.to_dict(), indent=1) + "\n"
        write_atomically(reported.coverage, text, what="coverage")
        out.text(f"wrote {reported.coverage}")
    if reported.heatmap is not None:
        save_heatmap(coverage, reported.heatmap)
        out.text(f"wrote {reported.heatmap}")
