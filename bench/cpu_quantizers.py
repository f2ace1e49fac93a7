"""Our CPU quantizers against ggml's: one core, one process, interleaved calls, equal bytes.

    python bench/cpu_quantizers.py [--types Q4_K,IQ2_XS,...] [--weights N] [--repeat N]
        [--isa avx512|avx2] [--core N] [--jsonl PATH]

Prints a table and, as the last line, a JSON object with ``geomean`` (of ours / stock over the types
with an importance matrix) and the ratio of each type. ``--jsonl`` keeps the raw samples. Exits with
1 if a single byte differs.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.types import GgmlType

Floats = npt.NDArray[np.float32]

TYPES = [
    "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS",
    "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
]  # fmt: skip
N_PER_ROW = 2048
MIN_SAMPLE_SECONDS = 0.05
"""A sample repeats the call until this has passed: long against a clock tick and a system call."""


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in million weights per second, raw samples kept."""

    type: str
    imatrix: bool
    stock: float
    ours: float
    ratio: float
    spread: float
    stock_samples: list[float]
    ours_samples: list[float]


def bf16_gaussian(n_weights: int, rng: np.random.Generator) -> Floats:
    """Rows of 2048 values of a model's size (sigma 0.02), rounded to BF16, so that many tie."""
    n_rows = max(1, n_weights // N_PER_ROW)
    values = rng.standard_normal((n_rows, N_PER_ROW), np.float32) * np.float32(0.02)
    bits = values.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    bits &= 0xFFFF0000
    return values


def speed(weights: Floats, type_number: int, imatrix: Floats | None, own_kernel: bool) -> float:
    """Million weights per second of calls that together take at least MIN_SAMPLE_SECONDS."""
    quantize = core.quantize_rows
    start = time.perf_counter()
    n_calls = 0
    elapsed = 0.0
    while elapsed < MIN_SAMPLE_SECONDS:
        quantize(weights, type_number, imatrix, own_kernel)
        n_calls += 1
        elapsed = time.perf_counter() - start
    return 1e-6 * weights.size * n_calls / elapsed


def measure(name: str, weights: Floats, imatrix: Floats | None, repeat: int) -> Row:
    """Compare the bytes, which also builds all tables, then time both in turn."""
    number = GgmlType[name].id
    stock = core.quantize_rows(weights, number, imatrix, own_kernel=False)
    ours = core.quantize_rows(weights, number, imatrix)
    if not np.array_equal(ours, stock):
        matrix = "without" if imatrix is None else "with"
        sys.exit(f"{name} {matrix} matrix: {np.count_nonzero(ours != stock)} bytes differ")
    stock_samples, ours_samples = [], []
    for _ in range(repeat):
        stock_samples.append(speed(weights, number, imatrix, own_kernel=False))
        ours_samples.append(speed(weights, number, imatrix, own_kernel=True))
    ratios = [own / theirs for own, theirs in zip(ours_samples, stock_samples, strict=True)]
    ours_median = statistics.median(ours_samples)
    return Row(
        type=name,
        imatrix=imatrix is not None,
        stock=statistics.median(stock_samples),
        ours=ours_median,
        ratio=statistics.median(ratios),
        spread=(max(ours_samples) - min(ours_samples)) / ours_median,
        stock_samples=stock_samples,
        ours_samples=ours_samples,
    )


def cpu_name() -> str:
    """The model name the kernel reports, or what Python knows of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def pin(core_number: int | None) -> int | None:
    """Run on one core from here on, where the system can; the core's number."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    chosen = max(os.sched_getaffinity(0)) if core_number is None else core_number
    os.sched_setaffinity(0, {chosen})
    return chosen


def run(arguments: argparse.Namespace, say_progress: bool) -> list[Row]:
    rng = np.random.default_rng(7)
    weights = bf16_gaussian(arguments.weights, rng)
    imatrix = rng.lognormal(0.0, 1.0, N_PER_ROW).astype(np.float32)
    rows = []
    for name in filter(None, arguments.types.split(",")):
        for matrix in (imatrix, None):
            if matrix is None and core.type_traits(GgmlType[name].id)[4]:
                continue
            row = measure(name, weights, matrix, arguments.repeat)
            rows.append(row)
            if say_progress:
                print(f"  {name}: {row.ratio:.2f}x", file=sys.stderr)
    return rows


def summary(rows: list[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """The last line: the geometric mean with a matrix, and ours / stock of every row."""

    def ratios(imatrix: bool) -> dict[str, float]:
        return {row.type: round(row.ratio, 2) for row in rows if row.imatrix == imatrix}

    def geomean(imatrix: bool) -> float | None:
        found = [row.ratio for row in rows if row.imatrix == imatrix]
        return round(statistics.geometric_mean(found), 2) if found else None

    return {
        "benchmark": "cpu_quantizers",
        **environment,
        "geomean": geomean(imatrix=True),
        "geomean_without_matrix": geomean(imatrix=False),
        "ratio": ratios(imatrix=True),
        "ratio_without_matrix": ratios(imatrix=False),
    }


def print_table(rows: list[Row]) -> None:
    print("type     matrix   stock Mw/s   ours Mw/s    ratio   spread")
    for row in rows:
        matrix = "yes" if row.imatrix else "no"
        print(
            f"{row.type:8} {matrix:6} {row.stock:12.2f} {row.ours:11.2f} "
            f"{row.ratio:7.2f}x {100 * row.spread:6.1f} %"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--weights", type=int, default=65536, help="weights per call")
    parser.add_argument("--repeat", type=int, default=7, help="samples of each side")
    parser.add_argument("--isa", choices=["avx512", "avx2"], help="default: the best of this CPU")
    parser.add_argument("--core", type=int, help="the core to run on, default the last one")
    parser.add_argument("--jsonl", type=Path, help="write environment, rows and summary here")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if arguments.isa:
        os.environ["APEX_ISA"] = arguments.isa  # read once, when the core first needs a kernel
    isa = core.kernel_isa()
    if isa != (arguments.isa or isa):
        sys.exit(f"expected kernels for {arguments.isa}, this CPU or build has {isa}")
    if isa == "portable":
        sys.exit("there are no kernels of our own for this CPU: nothing to compare")
    environment = {
        "isa": isa,
        "cpu": cpu_name(),
        "core": pin(arguments.core),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "weights": arguments.weights,
        "repeat": arguments.repeat,
        "build": core.build_info(),
    }
    rows = run(arguments, say_progress=sys.stderr.isatty())
    print_table(rows)
    last = json.dumps(summary(rows, environment))
    if arguments.jsonl:
        lines = [json.dumps({"environment": environment}), *(json.dumps(asdict(r)) for r in rows)]
        arguments.jsonl.write_text("\n".join([*lines, last]) + "\n")
    print(last)
    return 0


if __name__ == "__main__":
    sys.exit(main())
