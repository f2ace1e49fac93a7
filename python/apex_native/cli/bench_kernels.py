"""``apex-native bench kernels``: how fast each type is on this machine, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.bench_options import number_list, settings_errors, type_list
from apex_native.cli.bench_progress import Show, bench_progress
from apex_native.cli.options import (
    ForceOption,
    JsonOption,
    QuietOption,
    examples,
    parse_size,
    spread,
)
from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table
from apex_native.printable import counted

if TYPE_CHECKING:
    from apex_native.evaluation.speed import KernelProgress, KernelSpeed
    from apex_native.reports import KernelLine, MeasuredKernel

__all__ = ["register"]

_ALL = ("Gw/s", "GB/s", "%", "spread")
_COLUMNS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "cpu": {
        "to_float": ("dequantize", _ALL),
        "vec_dot": ("dot product", _ALL),
        "quantize": ("quantize", _ALL),
    },
    "cuda": {
        "to_half": ("dequantize to F16", ("Gw/s", "%")),
        "mat_mul_1": ("1 column", ("Gw/s", "GB/s", "%")),
        "mat_mul_8": ("8 columns", ("Gw/s",)),
        "mat_mul_512": ("512 columns", ("Gw/s",)),
        "quantize": ("quantize", ("Gw/s", "%")),
    },
}
"""What a table shows of each operation; a JSON line has everything."""

_BYTES_NOTE = (
    "GB/s: stored bytes and numbers read and written (products: stored bytes read, the",
    "activations stay in the cache); %: of memory copied, for products of memory read",
)


@dataclass(frozen=True)
class KernelChoices:
    """What to measure, and how long."""

    types: Annotated[
        list[str] | None,
        typer.Option("--types", metavar="LIST", show_default="all", help="ggml types."),
    ] = None
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Whose kernels.")] = (
        "cpu"
    )
    threads: Annotated[
        list[str] | None,
        typer.Option(
            "--threads", "-t", metavar="LIST", show_default="1,all", help="Numbers of threads."
        ),
    ] = None
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Of each measurement.")
    ] = 5
    sample_seconds: Annotated[
        float,
        typer.Option(
            "--sample-seconds", min=0.001, max=600, metavar="S", help="Of each repetition."
        ),
    ] = 0.1
    working_set: Annotated[
        int | None,
        typer.Option(
            "--working-set",
            parser=parse_size,
            metavar="SIZE",
            show_default="twice all last-level caches",
            help="Memory that an operation goes through again and again.",
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `apex_native.bench_kernels`; usage errors for what cannot be."""
        return {
            "types": type_list("--types", self.types),
            "device": self.device,
            "n_threads": number_list("--threads", self.threads, least=1),
            "repetitions": self.repetitions,
            "sample_seconds": self.sample_seconds,
            "working_set": self.working_set,
        }


@dataclass(frozen=True)
class KernelOutputs:
    """Where results go besides the table."""

    jsonl: Annotated[
        Path | None,
        typer.Option(
            "--jsonl", metavar="PATH", help="Append a line for each measurement: all samples."
        ),
    ] = None
    png: Annotated[Path | None, typer.Option("--png", metavar="PATH", help="Draw a plot.")] = None
    force: ForceOption = False


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "bench kernels",
        short_help="Measure the kernels of each type.",
        epilog=examples(
            "apex-native bench kernels",
            "apex-native bench kernels --types Q4_K,IQ3_S,IQ2_XXS -t 1,8 --png kernels.png",
            "apex-native bench kernels --jsonl kernels.jsonl --json",
        ),
    )(spread(kernels))


def kernels(
    choices: KernelChoices,
    outputs: KernelOutputs,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure dequantizing, dot products and quantizing of each type beside the memory's speed.

    All results are checked. A sentence below the table says which types cost speed here.
    """
    from apex_native import api
    from apex_native.evaluation.speed import kernel_record

    out = Output(json_mode=json_mode, quiet=quiet)
    with bench_progress(out) as show, settings_errors():
        rows = api.bench_kernels(
            **choices.settings(),
            jsonl=outputs.jsonl,
            png=outputs.png,
            force=outputs.force,
            progress=_progress(show),
        )
    out.document({"kernels": [kernel_record(row) for row in rows], "advice": list(_advice(rows))})
    _show(out, rows)
    if outputs.png is not None:
        out.text(f"wrote {outputs.png}")


def _progress(show: Show | None) -> Callable[[KernelProgress], None]:
    def progress(state: KernelProgress) -> None:
        if show is not None:
            show(state.label, state.done / state.total, state.eta_s)

    return progress


def _advice(rows: Sequence[KernelSpeed]) -> tuple[str, ...]:
    from apex_native.reports import kernel_advice

    return kernel_advice(rows, max(row.n_threads for row in rows))


def _show(out: Output, rows: Sequence[KernelSpeed]) -> None:
    from apex_native.reports import kernel_lines

    device = rows[0].device
    for n_threads in sorted({row.n_threads for row in rows}):
        roofs = {row.operation: row for row in rows if row.n_threads == n_threads}
        threads = counted(n_threads, "thread")
        title = (
            f"{threads if device == 'cpu' else device}: memory is copied at "
            f"{roofs['copy'].gb_per_s:.1f} GB/s (spread {roofs['copy'].spread:.0%}), read at "
            f"{roofs['read'].gb_per_s:.1f} GB/s (spread {roofs['read'].spread:.0%})"
        )
        cells = [_cells(line, rows, device) for line in kernel_lines(rows, n_threads)]
        out.table(Table(_columns(device), cells, title=title, notes=_BYTES_NOTE))
        out.text()
    for sentence in _advice(rows):
        out.text(sentence)


def _columns(device: str) -> tuple[Column, ...]:
    columns = [Column("type"), Column("bpw", right=True, drop=2)]
    for heading, fields in _COLUMNS[device].values():
        columns.append(Column(f"{heading} {fields[0]}", right=True))
        columns += [Column(field, right=True, drop=3) for field in fields[1:]]
    return tuple(columns)


def _cells(line: KernelLine, rows: Sequence[MeasuredKernel], device: str) -> tuple[str, ...]:
    from apex_native.reports import roofline_share

    cells = [line.name, f"{line.bpw:.4g}"]
    for operation, (_, fields) in _COLUMNS[device].items():
        # Where ours is faster than ggml's function, ours is what the program uses.
        row = line.kernels.get("widen" if operation == "to_float" else operation)
        row = row or line.kernels.get(operation)
        if row is None:
            cells += ["-"] * len(fields)
            continue
        share = roofline_share(row, rows)
        texts = {
            "Gw/s": f"{row.median / 1e9:.3f}",
            "GB/s": f"{row.gb_per_s:.2f}",
            "%": "-" if share is None else f"{share:.0%}",
            "spread": f"{row.spread:.0%}",
        }
        cells += [texts[field] for field in fields]
    return tuple(cells)
