"""Options of ``apex-native search``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from apex_native.cli.cache_option import cache_option
from apex_native.cli.options import parse_size
from apex_native.types import LONGEST_CONTEXT

__all__ = ["BudgetChoices", "EffortChoice", "LadderChoice", "RuleChoices", "SearchTextChoices"]

SIZE = "Size"
TEXT = "Text and matrix"
RULES = "What is allowed"


class LadderChoice(StrEnum):
    """Sets of types."""

    ALL = "all"
    K_ONLY = "k-only"


class EffortChoice(StrEnum):
    """How much is measured."""

    QUICK = "quick"
    NORMAL = "normal"
    THOROUGH = "thorough"


@dataclass(frozen=True)
class BudgetChoices:
    """How large the file may be."""

    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", "-b", metavar="SIZE[,SIZE...]", rich_help_panel=SIZE,
            help="Size of the whole file at most: bytes, or with a unit (12.2GiB, 13GB, 16G). "
            "Several: separated by commas, or repeat the option.",
        ),
    ] = None  # fmt: skip
    fit: Annotated[
        int | None,
        typer.Option(
            parser=parse_size, metavar="SIZE", rich_help_panel=SIZE,
            help="A GPU's memory, which model, KV cache, buffers and CUDA must fit in together, in "
            "place of --budget.",
        ),
    ] = None  # fmt: skip
    ctx: Annotated[
        int,
        typer.Option("--ctx", "-c", min=1, max=LONGEST_CONTEXT, metavar="N", rich_help_panel=SIZE,
                     help="With --fit: tokens of context."),
    ] = 4096  # fmt: skip
    type_k: Annotated[
        str, cache_option("--type-k", "With --fit: type of the K cache.", panel=SIZE)
    ] = "f16"
    type_v: Annotated[
        str, cache_option("--type-v", "With --fit: type of the V cache.", panel=SIZE)
    ] = "f16"


@dataclass(frozen=True)
class SearchTextChoices:
    """What is measured on."""

    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", "-f", metavar="FILE|DIR", rich_help_panel=TEXT,
            help="UTF-8 text to measure on; each file is a domain, a folder stands for its files. "
            "Repeatable. Default: built-in chat, code, reasoning and tool calls.",
        ),
    ] = None  # fmt: skip
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", metavar="FILE", rich_help_panel=TEXT,
            help="Importance matrix. Default: one is collected, as with --calibration diverse.",
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", rich_help_panel=TEXT, help="Which chunks are drawn.")
    ] = 0
    effort: Annotated[
        EffortChoice,
        typer.Option(rich_help_panel=TEXT, help="How much is measured."),
    ] = EffortChoice.NORMAL


@dataclass(frozen=True)
class RuleChoices:
    """Which types are allowed where."""

    ladder: Annotated[
        LadderChoice,
        typer.Option(rich_help_panel=RULES, help="k-only leaves out the IQ types."),
    ] = LadderChoice.ALL
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type", metavar="REGEX=TYPE", rich_help_panel=RULES,
            help="Pin the type of tensors whose name matches; repeatable, the first match decides.",
        ),
    ] = None  # fmt: skip
    floor: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", rich_help_panel=RULES,
            help="Least precise type of attention and shared experts, which every token passes.",
        ),
    ] = None  # fmt: skip
    together: Annotated[
        bool,
        typer.Option("--together", rich_help_panel=RULES,
                     help="One type for gate and up of a layer's experts."),
    ] = False  # fmt: skip
    min_tg: Annotated[
        str | None,
        typer.Option(
            metavar="SPEED", rich_help_panel=RULES,
            help="Least predicted speed of generation on this machine: tokens per second, or a "
            "multiple of a fixed recipe's (1.1x:Q4_K_M). Kernels are measured first.",
        ),
    ] = None  # fmt: skip
    surface: Annotated[
        bool,
        typer.Option("--surface", rich_help_panel=RULES,
                     help="Also predict what other speeds would cost: table and OUT.surface.png."),
    ] = False  # fmt: skip
