"""What a file must fit into: options of `plan`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.cache_option import cache_option
from apex_native.cli.options import parse_size
from apex_native.types import LONGEST_CONTEXT, GgmlType

if TYPE_CHECKING:
    from apex_native.memory import ContextSettings, Room

__all__ = ["FitChoices", "PlaceChoice", "rooms_of", "settings_of"]

FIT = "What fits"


class PlaceChoice(StrEnum):
    """Where the layers are."""

    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True)
class FitChoices:
    """A size of memory and what else must be in it."""

    fit: Annotated[
        int | None,
        typer.Option(
            parser=parse_size, metavar="SIZE", rich_help_panel=FIT,
            help="Say what fits into SIZE of memory, with cache, buffers and all: 16GiB.",
        ),
    ] = None  # fmt: skip
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", rich_help_panel=FIT,
            help='The memory of a graphics card, in place of --fit: "RTX 4060 Ti 16GB". Repeat it '
            "to ask about several cards, each by itself.",
        ),
    ] = None  # fmt: skip
    on: Annotated[
        PlaceChoice,
        typer.Option(rich_help_panel=FIT, help="Whose memory: a GPU's with all layers, or the "
                     "host's."),
    ] = PlaceChoice.GPU  # fmt: skip
    ctx: Annotated[
        int,
        typer.Option("--ctx", "-c", min=1, max=LONGEST_CONTEXT, metavar="N", rich_help_panel=FIT,
                     help="Tokens of context."),
    ] = 4096  # fmt: skip
    type_k: Annotated[str, cache_option("--type-k", "Type of the K cache.", panel=FIT)] = "f16"
    type_v: Annotated[str, cache_option("--type-v", "Type of the V cache.", panel=FIT)] = "f16"
    mmproj: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=FIT,
                     help="A multimodal projector that is loaded beside the model."),
    ] = None  # fmt: skip

    @property
    def given(self) -> bool:
        """It was asked what fits."""
        return self.fit is not None or bool(self.gpu)


def rooms_of(choices: FitChoices) -> tuple[Room, ...]:
    """The memories that were named; none where none was. A usage error for an unknown card."""
    from apex_native.memory import Room, gpu_room

    if choices.fit is not None and choices.gpu:
        raise typer.BadParameter("says the size already; leave out --fit", param_hint="--gpu")
    if choices.fit is not None:
        return (Room(choices.fit, on_gpu=choices.on is PlaceChoice.GPU),)
    if not choices.gpu:
        if choices.mmproj is not None:
            raise typer.BadParameter(
                "belongs to --fit or --gpu; give one of them", param_hint="--mmproj"
            )
        return ()
    if choices.on is PlaceChoice.CPU:
        raise typer.BadParameter("contradicts --on cpu; leave one out", param_hint="--gpu")
    try:
        return tuple(gpu_room(name) for name in choices.gpu)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu") from error


def settings_of(choices: FitChoices) -> ContextSettings:
    """The context that was asked for."""
    from apex_native.memory import ContextSettings

    return ContextSettings(
        choices.ctx, GgmlType.parse(choices.type_k), GgmlType.parse(choices.type_v)
    )
