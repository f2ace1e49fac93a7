"""Options of every verb that takes a checkpoint's folder in place of a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.option_names import in_options
from apex_native.cli.options import parse_size
from apex_native.conversion.options import ConversionOptions, OutType, Part

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput

__all__ = [
    "CHECKPOINT",
    "CheckpointChoices",
    "SourceArgument",
    "cache_limit",
    "note_lines",
    "open_model",
]

CHECKPOINT = "Checkpoints (a folder of safetensors)"

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="GGUF model, any shard of a split one, a checkpoint's folder, or either on the hub: "
        "hf://owner/repo, with @revision and /file.",
    ),
]


@dataclass(frozen=True)
class CheckpointChoices:
    """How a checkpoint is read; what llama.cpp's converter takes under the same names."""

    outtype: Annotated[
        OutType,
        typer.Option(
            "--outtype",
            rich_help_panel=CHECKPOINT,
            help="Type of its weights as GGUF; auto: its own 16 bits.",
        ),
    ] = OutType.AUTO
    no_mtp: Annotated[
        bool,
        typer.Option(
            "--no-mtp",
            rich_help_panel=CHECKPOINT,
            help="Leave out its layers for multi-token prediction.",
        ),
    ] = False
    folder_metadata: Annotated[
        bool,
        typer.Option(
            "--folder-metadata",
            rich_help_panel=CHECKPOINT,
            help="Take name, licence and origin from the folder's name and README.",
        ),
    ] = False
    fuse_gate_up: Annotated[
        bool,
        typer.Option(
            "--fuse-gate-up-exps",
            rich_help_panel=CHECKPOINT,
            help="One tensor for gate and up of experts.",
        ),
    ] = False
    fuse_qkv: Annotated[
        bool,
        typer.Option("--fuse-qkv", rich_help_panel=CHECKPOINT, help="One tensor for Q, K and V."),
    ] = False
    fp8_as_q8: Annotated[
        bool,
        typer.Option(
            "--fp8-as-q8",
            rich_help_panel=CHECKPOINT,
            help="FP8 weights become Q8_0 and not 16 bits.",
        ),
    ] = False
    int4_as_q4_0: Annotated[
        bool,
        typer.Option(
            "--int4-as-q4-0",
            rich_help_panel=CHECKPOINT,
            help="INT4 weights (Kimi, GPTQ) become Q4_0 with exactly their values, and not 16 "
            "bits.",
        ),
    ] = False
    pre_tokenizer: Annotated[
        str | None,
        typer.Option(
            "--pre-tokenizer",
            metavar="NAME",
            rich_help_panel=CHECKPOINT,
            help="What its unknown tokenizer cuts text like: qwen2, llama-bpe, ...",
        ),
    ] = None
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            rich_help_panel=CHECKPOINT,
            help="Read .bin files; unpickling can run code.",
        ),
    ] = False
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            rich_help_panel=CHECKPOINT,
            help="Let the checkpoint's own Python code run.",
        ),
    ] = False

    cache_limit: Annotated[
        str | None,
        typer.Option(
            "--cache-limit",
            metavar="SIZE",
            rich_help_panel=CHECKPOINT,
            help="For hf:// addresses: keep no more than this of its files on the disk at a time, "
            "and none at the end. Default: they stay in the hub's cache.",
        ),
    ] = None

    @property
    def given(self) -> tuple[str, ...]:
        """Fields that are not at their default, as options."""
        changed = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        return tuple(_OPTIONS.get(name, "--" + name.replace("_", "-")) for name in changed)

    def options(self, part: Part | None = None, name: str | None = None) -> ConversionOptions:
        """What `open_checkpoint` takes; a part other than the model excludes --no-mtp."""
        if part is not None and self.no_mtp:
            raise typer.BadParameter(
                "is of the model; leave it out with --mmproj and --mtp", param_hint="--no-mtp"
            )
        return ConversionOptions(
            out_type=self.outtype,
            part=part or (Part.MODEL_WITHOUT_MTP if self.no_mtp else Part.MODEL),
            name=name,
            folder_metadata=self.folder_metadata,
            fuse_gate_up=self.fuse_gate_up,
            fuse_qkv=self.fuse_qkv,
            fp8_as_q8=self.fp8_as_q8,
            int4_as_q4_0=self.int4_as_q4_0,
            pre_tokenizer=self.pre_tokenizer,
            allow_pickle=self.allow_pickle,
            trust_remote_code=self.trust_remote_code,
        )


_OPTIONS = {"fuse_gate_up": "--fuse-gate-up-exps"}


def note_lines(source: ModelInput) -> list[str]:
    """What a checkpoint has besides what is shown, a line each; nothing of a file."""
    notes = getattr(source, "notes", ())
    return [f"{'also' if i == 0 else '':<14}{in_options(text)}" for i, text in enumerate(notes)]


def cache_limit(path: Path, choices: CheckpointChoices) -> int | None:
    """--cache-limit in bytes; a usage error where nothing is fetched."""
    from apex_native.hub import is_address

    if choices.cache_limit is None:
        return None
    if not is_address(path):
        raise typer.BadParameter(
            f"is for an hf:// address, {path} is none", param_hint="--cache-limit"
        )
    return parse_size(choices.cache_limit)


def open_model(path: Path, choices: CheckpointChoices, *, needs_data: bool = False) -> ModelInput:
    """The open file or folder; a usage error for an option that only the other kind has.

    needs_data: weights will be read, so a GGUF file of the hub is downloaded.
    """
    from apex_native.conversion import open_source
    from apex_native.hub import is_address

    limit = cache_limit(path, choices)
    if choices.given and not (path.is_dir() or is_address(path)):
        raise typer.BadParameter(
            f"is for a checkpoint's folder, {path} is none", param_hint=choices.given[0]
        )
    return open_source(path, choices.options(), cache_limit=limit, needs_data=needs_data)
