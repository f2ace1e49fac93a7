"""Where a model computes: the options of every verb that loads one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from apex_native.cli.options import ThreadsOption, parse_size

if TYPE_CHECKING:
    from apex_native.engine import Model, Placement

__all__ = ["ComputeChoices", "DeviceChoices", "SplitChoice", "StreamChoices"]

GPU = "GPU"
MOST_LAYERS = 9999
"""Larger than any model; llama.cpp's programs are often given 999 for all."""
MOST_GPUS = 255


class SplitChoice(StrEnum):
    """How a model is spread over several GPUs."""

    NONE = "none"
    LAYER = "layer"
    ROW = "row"


def _parse_shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or min(shares) < 0 or max(shares) <= 0:
        raise typer.BadParameter(f"'{text}' is no list of shares; write it like 3,1")
    return shares


def _parse_layers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        number = int(text)
    except ValueError:
        number = -2
    if not -1 <= number <= MOST_LAYERS:
        raise typer.BadParameter(
            f"'{text}' is neither auto nor a number of layers; -1 is all of them",
            param_hint="--gpu-layers",
        )
    return number


@dataclass(frozen=True)
class DeviceChoices:
    """Devices, as `apex_native.engine.load_model` takes them."""

    gpu_layers: Annotated[
        str,
        typer.Option(
            "--gpu-layers",
            metavar="N|auto",
            rich_help_panel=GPU,
            help="Layers on the GPU; -1 is all of them, auto what its free memory holds.",
        ),
    ] = "auto"
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            rich_help_panel=GPU,
            show_default="all GPUs",
            help="A GPU to use (CUDA0, CUDA1, ...); repeatable.",
        ),
    ] = None
    split_mode: Annotated[
        SplitChoice,
        typer.Option(
            "--split-mode", rich_help_panel=GPU, help="How to spread a model over several GPUs."
        ),
    ] = SplitChoice.LAYER
    tensor_split: Annotated[
        str | None,
        typer.Option(
            "--tensor-split",
            metavar="A,B,...",
            rich_help_panel=GPU,
            show_default="by free memory",
            help="Share of each GPU.",
        ),
    ] = None
    main_gpu: Annotated[
        int,
        typer.Option(
            "--main-gpu",
            min=0,
            max=MOST_GPUS,
            metavar="I",
            rich_help_panel=GPU,
            help="The GPU to use with --split-mode none.",
        ),
    ] = 0

    def layers(self) -> int | Literal["auto"]:
        """As `load_model` takes them; 0 where nothing is asked for and there is no GPU."""
        from apex_native.gpu_layers import has_gpu

        layers = _parse_layers(self.gpu_layers)
        return 0 if layers == "auto" and not has_gpu() else layers

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        return {
            "n_gpu_layers": self.layers(),
            "devices": tuple(self.gpu or ()),
            "split_mode": self.split_mode.value,
            "tensor_split": ()
            if self.tensor_split is None
            else tuple(_parse_shares(self.tensor_split)),
            "main_gpu": self.main_gpu,
        }

    def load(self, path: Path, **more: Any) -> Model:
        """Load a model with these choices and whatever else `load_model` takes."""
        from apex_native.engine import load_model

        return load_model(path, **{**self.settings(), **more})


@dataclass(frozen=True)
class ComputeChoices(DeviceChoices):
    """Threads and devices, as `apex_native.engine.load_model` takes them."""

    threads: ThreadsOption = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        return {"n_threads": self.threads, **super().settings()}

    @property
    def placement(self) -> Placement:
        """The same as a value."""
        from apex_native.engine import Placement

        return Placement(**self.settings())


@dataclass(frozen=True)
class StreamChoices(ComputeChoices):
    """The same, for verbs that compute many chunks of a text at once."""

    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory",
            metavar="SIZE",
            rich_help_panel=GPU,
            show_default="no limit",
            help="Of one GPU at most (24GiB): models one after the other, many chunks at once; "
            "experts that do not fit are streamed through it.",
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        settings = super().settings()
        if self.gpu_memory is None:
            return settings
        return {**settings, "n_gpu_layers": -1, "gpu_memory": parse_size(self.gpu_memory)}
