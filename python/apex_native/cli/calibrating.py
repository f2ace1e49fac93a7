"""``quantize --calibration``: the importance matrix collected on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.output import Output

if TYPE_CHECKING:
    from apex_native.cli.collecting import CalibrationText
    from apex_native.cli.compute_options import ComputeChoices
    from apex_native.engine import Model
    from apex_native.gguf import GgufFile

__all__ = ["CALIBRATION", "CalibrationChoices", "calibrate", "matrix_path"]

CALIBRATION = "Calibration"

RECIPE_SUFFIX = ".toml"


@dataclass(frozen=True)
class CalibrationChoices:
    """Where the importance matrix comes from, if not from a file."""

    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", metavar="RECIPE|TEXT", rich_help_panel=CALIBRATION,
            help="Collect the importance matrix first, on a recipe of `apex-native corpus` "
            "(diverse) or a text file. It is kept beside the output, as OUT.imatrix.gguf.",
        ),
    ] = None  # fmt: skip
    calibration_chunks: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=CALIBRATION, show_default="all",
            help="Chunks of 512 tokens at most.",
        ),
    ] = None  # fmt: skip
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special", rich_help_panel=CALIBRATION,
            help="In a TEXT, what spells a special token becomes it; a recipe says so itself.",
        ),
    ] = False  # fmt: skip


def matrix_path(output: Path) -> Path:
    """``model-APEX-Mini.imatrix.gguf`` for ``model-APEX-Mini.gguf``."""
    return output.with_name(output.name.removesuffix(".gguf") + ".imatrix.gguf")


def calibrate(
    out: Output,
    source: GgufFile,
    output: Path,
    choices: CalibrationChoices,
    compute: ComputeChoices,
    *,
    resume: bool,
    force: bool,
) -> Path:
    """Collect the matrix for an output, or take the one that an interrupted run left.

    Raises what `collect_imatrix` and `build_corpus` raise.
    """
    from apex_native.cli.collecting import CollectRequest, collect, warn_of_missing

    path = matrix_path(output)
    request = CollectRequest(
        model=source.path,
        text=lambda model: _text(choices, model),
        output=path,
        all_experts=False,
        options={"max_chunks": choices.calibration_chunks, "resume": resume, "force": force},
    )
    warn_of_missing(out, collect(out, request, compute), source.facts)
    out.note(f"wrote {path}")
    return path


def _text(choices: CalibrationChoices, model: Model) -> CalibrationText:
    from apex_native.cli.collecting import CalibrationText
    from apex_native.corpus import build_corpus, load_recipe
    from apex_native.imatrix import read_text

    assert choices.calibration is not None
    path = Path(choices.calibration)
    if path.suffix != RECIPE_SUFFIX and path.is_file():
        return CalibrationText(read_text([path]), str(path), choices.parse_special)
    recipe = load_recipe(choices.calibration)
    corpus = build_corpus(recipe, model)
    return CalibrationText(corpus.text, f"recipe {recipe.name}", corpus.parse_special)
