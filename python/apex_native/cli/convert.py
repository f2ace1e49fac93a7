"""``apex-native convert``: a checkpoint as a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from apex_native.cli.checkpoint_options import CHECKPOINT, CheckpointChoices
from apex_native.cli.options import (
    RUN,
    ForceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    examples,
    spread,
)
from apex_native.cli.output import Output, exact_size
from apex_native.conversion.options import ConversionOptions, OutType, Part

__all__ = ["register"]

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Checkpoint: safetensors, config.json and tokenizer; or hf://owner/repo@revision.",
    ),
]


@dataclass(frozen=True)
class ConvertChoices:
    """Which part becomes a file, and where."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.gguf",
            help="The file to write; default: named after folder and type, in this folder.",
        ),
    ] = None
    model_name: Annotated[
        str | None, typer.Option("--model-name", metavar="NAME", help="general.name.")
    ] = None
    mmproj: Annotated[
        bool,
        typer.Option(
            "--mmproj",
            rich_help_panel=CHECKPOINT,
            help="Write its projector for images or audio, in F16 if not told otherwise.",
        ),
    ] = False
    mtp: Annotated[
        bool,
        typer.Option(
            "--mtp",
            rich_help_panel=CHECKPOINT,
            help="Write only its layers for multi-token prediction, as a draft model.",
        ),
    ] = False
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=RUN, help="Go on with an interrupted run."),
    ] = False
    force: ForceOption = False

    @property
    def part(self) -> Part | None:
        """Another part than the model."""
        return Part.MMPROJ if self.mmproj else Part.MTP if self.mtp else None


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "convert",
        short_help="Write a checkpoint's folder as GGUF.",
        epilog=examples(
            "apex-native convert Qwen3.5-35B-A3B/",
            "apex-native convert Qwen3.5-35B-A3B/ --no-mtp -o model-bf16.gguf",
            "apex-native convert Qwen3.5-35B-A3B/ --mmproj",
        ),
    )(spread(convert))


def convert(
    folder: FolderArgument,
    choices: CheckpointChoices,
    chosen: ConvertChoices,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a checkpoint's folder as the GGUF file that llama.cpp's converter writes.

    Nothing of the model stays in memory. `quantize FOLDER` needs no such file.
    """
    from apex_native.api import convert as write
    from apex_native.cli.checkpoint_options import cache_limit
    from apex_native.cli.progress import quantize_progress
    from apex_native.conversion import open_checkpoint

    _require_consistent(chosen)
    limit = cache_limit(folder, choices)
    out = Output(json_mode=json_mode, quiet=quiet)
    out.note(f"reading {folder}")
    with open_checkpoint(folder, _options(choices, chosen), cache_limit=limit) as source:
        path = chosen.output or Path()
        if path.is_dir():
            path = path / _file_name(source.path, chosen.part, source.weights_type.name)
        with quantize_progress(out, f"writing {path.name}") as progress:
            manifest = write(
                source, path, n_threads=threads, resume=chosen.resume, force=chosen.force,
                progress=progress,
            )  # fmt: skip
    if json_mode:
        out.document(manifest.to_dict())
        return
    if quiet:
        out.text(str(path))
        return
    out.text(
        f"{exact_size(manifest.total_bytes)}, {len(manifest.tensors)} tensors, in "
        f"{manifest.elapsed_s:.1f} s ({manifest.total_bytes / manifest.elapsed_s / 1e6:.0f} MB/s)"
    )
    out.text(f"wrote {path}")


def _require_consistent(chosen: ConvertChoices) -> None:
    if chosen.mmproj and chosen.mtp:
        raise typer.BadParameter("write one file at a time; leave one out", param_hint="--mtp")


def _options(choices: CheckpointChoices, chosen: ConvertChoices) -> ConversionOptions:
    options = choices.options(chosen.part, chosen.model_name)
    if chosen.mmproj and options.out_type is OutType.AUTO:
        return replace(options, out_type=OutType.F16)
    return options


def _file_name(folder: Path, part: Part | None, type: str) -> str:
    """Named as upstream's script names them: model-BF16.gguf, mmproj-model-F16.gguf."""
    prefix = {Part.MMPROJ: "mmproj-", Part.MTP: "mtp-"}.get(part, "") if part else ""
    return f"{prefix}{folder.resolve().name}-{type}.gguf"
