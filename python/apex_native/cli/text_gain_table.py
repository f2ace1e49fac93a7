"""Gains by text as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apex_native.cli.output import Output
    from apex_native.reports import TextGain

__all__ = ["show_text_gains"]


def show_text_gains(out: Output, gains: Sequence[TextGain]) -> None:
    """A row for each text and model: mean KLD and its tail, and what the first model's are."""
    from apex_native.reports.numbers import kld

    columns = (
        Column("text", wraps=True),
        Column("model", wraps=True),
        Column("KLD mean", right=True),
        Column("change", right=True),
        Column("95 % interval", right=True, wraps=True),
        Column("KLD 99.9 %", right=True, drop=1),
        Column("its change", right=True, drop=1),
        Column("chunks", right=True, drop=2),
    )
    rows = [
        (
            gain.text if gain.against is None else "",
            gain.candidate,
            kld(gain.kld_mean),
            _percent(gain.change),
            "" if gain.low is None else f"{_percent(gain.low)} to {_percent(gain.high)}",
            kld(gain.kld_p999),
            _percent(gain.change_p999),
            str(gain.n_chunks) if gain.against is None else "",
        )
        for gain in gains
    ]
    out.table(Table(columns, rows, notes=tuple(_notes(gains))))
    out.text()


def _notes(gains: Sequence[TextGain]) -> list[str]:
    rule = "Changes against the first model of each text, in percent of its KLD; below 0 is better."
    notes = [f"{rule} Intervals: paired bootstrap over chunks."]
    if any(gain.against is not None and gain.low is None for gain in gains):
        from apex_native.results import MIN_CHUNKS

        notes.append(f"No interval: it needs at least {MIN_CHUNKS} chunks computed in one run.")
    return notes


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"
