"""What measured kernels mean: shares of what memory gives, and which types cost speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from apex_native.printable import counted

__all__ = ["KernelLine", "MeasuredKernel", "kernel_advice", "kernel_lines", "roofline_share"]

_COPIES = ("to_float", "widen", "to_half", "to_bfloat", "quantize")
_READS = ("vec_dot", *(f"mat_mul_{n}" for n in (1, 2, 4, 8, 512)))
_ROOFLINE_OF = {**dict.fromkeys(_COPIES, "copy"), **dict.fromkeys(_READS, "read")}
"""Products write nothing to speak of: reading is their limit, copying that of the others."""

_GPU_WORK = {
    "mat_mul_1": "Text generation on this GPU",
    "mat_mul_8": "Eight texts generated at once on this GPU",
    "mat_mul_512": "Reading a prompt on this GPU",
}
"""What a GPU's products are for."""

_MEMORY_BOUND = 0.8
"""From this share of the roofline on, faster arithmetic would hardly be noticed."""

_FOR_TRAINED_MODELS = frozenset({"TQ1_0", "TQ2_0", "Q1_0", "Q2_0"})
"""Two to four levels without a search: for models trained with such weights. No choice for others,
so no advice speaks of them."""


class MeasuredKernel(Protocol):
    """An operation on a type; `apex_native.evaluation.speed.KernelSpeed` is one.

    Speeds are weights per second, spread is (largest - smallest) / median of the samples.
    """

    @property
    def operation(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def bpw(self) -> float: ...  # noqa: D102
    @property
    def n_threads(self) -> int: ...  # noqa: D102
    @property
    def bytes_per_weight(self) -> float: ...  # noqa: D102
    @property
    def samples(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def median(self) -> float: ...  # noqa: D102
    @property
    def spread(self) -> float: ...  # noqa: D102
    @property
    def gb_per_s(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class KernelLine:
    """Everything measured of one type with one number of threads, by operation."""

    name: str
    bpw: float
    kernels: dict[str, MeasuredKernel]


def kernel_lines(rows: Sequence[MeasuredKernel], n_threads: int) -> list[KernelLine]:
    """One line a type, smallest first; rooflines are left out."""
    lines: dict[str, KernelLine] = {}
    for row in rows:
        if row.n_threads == n_threads and row.operation in _ROOFLINE_OF:
            line = lines.setdefault(row.name, KernelLine(row.name, row.bpw, {}))
            line.kernels[row.operation] = row
    return sorted(lines.values(), key=lambda line: (line.bpw, line.name))


def roofline_share(row: MeasuredKernel, rows: Sequence[MeasuredKernel]) -> float | None:
    """The bytes a kernel moves per second over those of its roofline at the same threads.

    None where the roofline was not measured.
    """
    wanted = (_ROOFLINE_OF.get(row.operation), row.n_threads)
    for other in rows:
        if (other.operation, other.n_threads) == wanted:
            return row.gb_per_s / other.gb_per_s
    return None


def kernel_advice(rows: Sequence[MeasuredKernel], n_threads: int) -> tuple[str, ...]:
    """What the products say about choosing types for this machine, in sentences.

    Of a CPU its dot products, of a GPU its products with one column (generating text) and with many
    (reading prompts). A type costs speed if a larger type is computed faster by more than the
    spread of both.
    """
    threads = counted(n_threads, "thread")
    work = {"vec_dot": f"Text generation on {threads}", **_GPU_WORK}
    return tuple(
        sentence
        for operation, text in work.items()
        for sentence in _advice(rows, n_threads, operation, text)
    )


def _advice(
    rows: Sequence[MeasuredKernel], n_threads: int, operation: str, work: str
) -> tuple[str, ...]:
    dots = sorted(
        (
            row
            for row in rows
            if (row.operation, row.n_threads) == (operation, n_threads)
            and row.name not in _FOR_TRAINED_MODELS
        ),
        key=lambda row: (row.bpw, row.name),
    )
    if not dots:
        return ()
    best = max(dots, key=lambda row: row.median)
    speed = f"{best.median / 1e9:.2f} billion weights per second, in {best.name}"
    sentences = [f"{work} multiplies at most {speed}."]
    slower = [text for row in dots if (text := _cost(row, dots))]
    if slower:
        sentences.append(
            f"These save memory and cost speed (speed relative to a larger type): "
            f"{', '.join(slower)}."
        )
    else:
        sentences.append("No type is slower than a larger one: smaller files are never slower.")
    bound = [row.name for row in dots if (roofline_share(row, rows) or 0) >= _MEMORY_BOUND]
    if bound:
        sentences.append(
            f"Limited by memory, so that fewer bits are more speed: {', '.join(bound)}."
        )
    return tuple(sentences)


def _cost(row: MeasuredKernel, dots: Sequence[MeasuredKernel]) -> str | None:
    larger = [other for other in dots if other.bpw > row.bpw]
    if not larger:
        return None
    best = max(larger, key=lambda other: other.median)
    ratio = row.median / best.median
    if ratio >= 1 - max(row.spread, best.spread):
        return None
    return f"{row.name} {ratio:.2f}x {best.name}"
