"""Options of ``apex-native eval``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.cache_option import cache_option
from apex_native.cli.options import RUN

if TYPE_CHECKING:
    from apex_native.evaluation.divergence.text import Text

__all__ = ["TextChoices"]

TEXT = "Text"


def _bad_text(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--text")


class FlashChoice(StrEnum):
    """As llama.cpp's programs take it."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class TextChoices:
    """Which text, how it is cut, and how the models run over it."""

    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            "-f",
            metavar="FILE",
            rich_help_panel=TEXT,
            help="UTF-8 text to score; several are joined, unless --by-text.",
        ),
    ] = None
    by_text: Annotated[
        bool,
        typer.Option("--by-text", rich_help_panel=TEXT,
                     help="Each text by itself, or each .txt of a folder: what candidates gain "
                     "against the first. -o is a folder too then."),
    ] = False  # fmt: skip
    ctx: Annotated[
        int,
        typer.Option("--ctx", "-c", min=4, metavar="N", rich_help_panel=TEXT,
                     help="Tokens of a chunk; its second half is scored."),
    ] = 512  # fmt: skip
    chunks: Annotated[
        int | None,
        typer.Option("--chunks", min=1, metavar="N", show_default="all", rich_help_panel=TEXT,
                     help="So many of the first chunks."),
    ] = None  # fmt: skip
    parse_special: Annotated[
        bool,
        typer.Option("--parse-special", rich_help_panel=TEXT,
                     help="Text that spells a special token is that token: for chat markup."),
    ] = False  # fmt: skip
    type_k: Annotated[
        str,
        cache_option("--type-k", "Type of the candidates' cached keys; the reference's: f16."),
    ] = "f16"
    type_v: Annotated[str, cache_option("--type-v", "Type of the candidates' cached values.")] = (
        "f16"
    )
    flash_attn: Annotated[
        FlashChoice,
        typer.Option("--flash-attn", rich_help_panel=RUN,
                     help="How attention is computed; auto is llama-perplexity's default."),
    ] = FlashChoice.AUTO  # fmt: skip
    two_pass: Annotated[
        bool,
        typer.Option("--two-pass", rich_help_panel=RUN,
                     help="The reference alone, then as many candidates as take no more memory."),
    ] = False  # fmt: skip
    noise_chunks: Annotated[
        int | None,
        typer.Option("--noise-chunks", min=0, metavar="N", rich_help_panel=TEXT,
                     show_default="up to 8, a tenth of the work at most",
                     help="Chunks the reference is compared with itself on; 0 is none."),
    ] = None  # fmt: skip
    no_router: Annotated[
        bool,
        typer.Option("--no-router", rich_help_panel=TEXT,
                     help="Do not count how often a MoE's routers choose as the reference's."),
    ] = False  # fmt: skip
    save_base: Annotated[
        Path | None,
        typer.Option("--save-base", metavar="FILE", rich_help_panel=TEXT,
                     help="Write the reference's log-probabilities for llama-perplexity: large."),
    ] = None  # fmt: skip
    ubatch_size: Annotated[
        int | None,
        typer.Option("--ubatch-size", min=1, metavar="N", rich_help_panel=RUN,
                     show_default="512, less for large vocabularies",
                     help="Tokens computed at once."),
    ] = None  # fmt: skip
    no_memory_check: Annotated[
        bool,
        typer.Option("--no-memory-check", rich_help_panel=RUN,
                     help="Load whatever the free memory says."),
    ] = False  # fmt: skip

    def joined(self) -> Path | Text | None:
        """The text to score: a file, or several joined by a line break, as `imatrix` joins them."""
        if not self.text or len(self.text) == 1:
            return self.text[0] if self.text else None
        from apex_native.evaluation.divergence.text import Text, read_text

        return Text(
            " + ".join(path.name for path in self.text),
            "\n".join(read_text(path).content for path in self.text),
        )

    def each(self) -> dict[str, Path]:
        """The texts by what they are called, those of folders too.

        Raises typer.BadParameter where two have one name, or a folder has none.
        """
        named: dict[str, Path] = {}
        for given in self.text or ():
            paths = sorted(given.glob("*.txt")) if given.is_dir() else [given]
            if not paths:
                raise _bad_text(f"{given} has no files that end in .txt; give texts by name")
            for path in paths:
                if path.stem in named:
                    raise _bad_text(
                        f"{named[path.stem]} and {path} are both called '{path.stem}', by which "
                        "--by-text tells texts apart; rename one"
                    )
                named[path.stem] = path
        return named

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `apex_native.evaluate`."""
        return {
            "ctx": self.ctx,
            "chunks": self.chunks,
            "parse_special": self.parse_special,
            "type_k": self.type_k,
            "type_v": self.type_v,
            "two_pass": self.two_pass,
            "noise_chunks": self.noise_chunks,
            "router": not self.no_router,
            "save_base": self.save_base,
            "n_ubatch": self.ubatch_size,
            "check_memory": not self.no_memory_check,
        }
