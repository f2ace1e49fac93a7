"""``quantize --calibration``: the importance matrix collected on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["CALIBRATION", "CalibrationChoices", "matrix_path"]

CALIBRATION = "Calibration"


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

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `apex_native.calibrate`."""
        return {"max_chunks": self.calibration_chunks, "parse_special": self.parse_special}


def matrix_path(output: Path) -> Path:
    """``model-APEX-Mini.imatrix.gguf`` for ``model-APEX-Mini.gguf``."""
    return output.with_name(output.name.removesuffix(".gguf") + ".imatrix.gguf")
