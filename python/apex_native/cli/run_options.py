"""How `quantize` runs: its options beside those of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from apex_native.cli.options import RUN, ForceOption, NameStyleChoice, parse_size

__all__ = ["RunChoices"]


@dataclass(frozen=True)
class RunChoices:
    """How to run: nothing here changes a byte of tensor data."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.gguf|FOLDER",
            help="The file to write, or a folder for it; default: named after model and recipe, in "
            "this folder.",
        ),
    ] = None
    name_style: Annotated[
        NameStyleChoice,
        typer.Option(
            "--name-style",
            help="Default names: -APEX-Q6_K_IQUALITY, which the Hub labels and llama.cpp finds as "
            "`repo:TAG`, or -APEX-I-Quality as in the first published files.",
        ),
    ] = NameStyleChoice.HUB
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda|cuda:N|cuda:all",
            rich_help_panel=RUN,
            help="Quantize on GPUs what they have kernels for; the bytes are the CPU's.",
        ),
    ] = "cpu"
    verify_gpu: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="RATE",
            show_default="0",
            rich_help_panel=RUN,
            help="Share of the GPUs' rows to quantize again on the CPU and compare.",
        ),
    ] = 0.0
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            show_default="2G",
            rich_help_panel=RUN,
            help="Memory for buffers, above the mapped input.",
        ),
    ] = None
    split_max_size: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            rich_help_panel=RUN,
            help="Write shards of at most SIZE of tensor data (48G, 50GB).",
        ),
    ] = None
    keep_split: Annotated[
        bool,
        typer.Option(
            "--keep-split",
            rich_help_panel=RUN,
            help="Write the shards that the source has.",
        ),
    ] = False
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            rich_help_panel=RUN,
            help="Accept a source that is quantized already, and the added error.",
        ),
    ] = False
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=RUN, help="Go on with an interrupted run."),
    ] = False
    force: ForceOption = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=RUN,
            help="Check everything, show plan and size, write nothing.",
        ),
    ] = False
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="PATH",
            show_default="OUT.gguf.manifest.json",
            help="Where to record each tensor's type, bytes and error.",
        ),
    ] = None
    no_manifest: Annotated[bool, typer.Option("--no-manifest", help="Write no manifest.")] = False
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Load the result in llama.cpp and decode a short text."
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `quantize_model` and `quantize_many`."""
        from apex_native.quantization import DEFAULT_MAX_MEMORY

        return {
            "max_memory": self.max_memory or DEFAULT_MAX_MEMORY,
            "split_max_size": self.split_max_size,
            "keep_split": self.keep_split,
            "allow_requantize": self.allow_requantize,
            "resume": self.resume,
            "force": self.force,
            "device": self.device,
            "verify_gpu": self.verify_gpu,
        }

    def trial_settings(self) -> dict[str, Any]:
        """Keyword arguments of `dry_run`."""
        return {
            "split_max_size": self.split_max_size,
            "keep_split": self.keep_split,
            "allow_requantize": self.allow_requantize,
            "force": self.force or self.resume,
        }
