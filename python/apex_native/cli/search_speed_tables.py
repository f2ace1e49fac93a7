"""Speeds of searched files: predicted beside measured, and what other speeds would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.allocation import SearchOutcome

__all__ = ["speed_table", "surface_table"]


def speed_table(outcome: SearchOutcome, paths: list[Path]) -> Table:
    """Tokens per second of every file, and of the recipe that predictions start from."""
    report = outcome.report["speed"]
    own = report["calibrator_speed"]
    rows = [
        (
            report["calibrator"],
            "–",
            f"{own['generate']:.1f}",
            "–",
            f"{own['prompt']:.0f}",
        )
    ]
    for found, path in zip(outcome.budgets, paths, strict=True):
        predicted, measured = found.predicted_speed, found.measured_speed
        if predicted is None or measured is None:
            continue
        rows.append(
            (
                path.name,
                f"{predicted.generate:.1f}",
                f"{measured.generate:.1f}",
                f"{predicted.prompt:.0f}",
                f"{measured.prompt:.0f}",
            )
        )
    columns = (
        Column("file"),
        Column("tg predicted", right=True),
        Column("measured", right=True),
        Column("pp predicted", right=True),
        Column("measured", right=True),
    )
    notes = (
        "tokens per second, generating (tg) and reading (pp); predicted from the weights a token",
        f"passes and measured kernels, starting from the measured {report['calibrator']}",
    )
    return Table(columns, rows, title="speed", notes=notes)


def surface_table(outcome: SearchOutcome) -> Table:
    """What could be had; nothing of it was measured."""
    rows = [
        (
            f"{point['budget']:,}",
            f"{point['nbytes']:,}",
            f"{point['speed']['generate']:.1f}",
            f"{point['speed']['prompt']:.0f}",
            f"{point['kld']:.4f}",
            "dominated" if point["dominated"] else "",
        )
        for point in outcome.report["surface"]
    ]
    columns = (
        Column("at most", right=True),
        Column("bytes", right=True, drop=1),
        Column("tg", right=True),
        Column("pp", right=True),
        Column("KLD", right=True),
        Column(""),
    )
    notes = ("predicted; dominated: another is not larger, not slower and has a lower KLD",)
    return Table(columns, rows, title="size, speed, KLD", notes=notes)
