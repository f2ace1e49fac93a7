"""Several tiers from one reading of the source, beside one after the other: equal bytes, seconds.

    python bench/quantize_many.py [--tiers i-quality,i-balanced,...] [--layers N] [--experts N]
        [--threads N] [--repeat N] [--folder DIR] [--cold]

Runs of both ways are interleaved. --cold drops the source from the page cache before every reading
(Linux), so that each starts at the disk. Prints a table and, as the last line, JSON with ``ratio``
(one after the other / together) and ``to_slowest`` (together / the slowest alone). Exits with 1 if
a byte differs.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apex_native as apex
from benchmark_model import write_imatrix, write_model

TIERS = "i-quality,i-balanced,i-compact,quality,balanced,compact"


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Bench:
    """A source, its matrix, and the plans."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.threads = options.threads
        self.cold = options.cold
        self.source = folder / "source.gguf"
        write_model(self.source, options.layers, options.experts)
        matrix_path = folder / "imatrix.gguf"
        write_imatrix(matrix_path, options.layers, options.experts)
        matrix = apex.load_imatrix(matrix_path)
        self.targets = {}
        for tier in options.tiers.split(","):
            used = matrix if tier.startswith("i-") or tier in ("mini", "nano", "micro") else None
            plan = apex.make_plan(self.source, tier=tier, imatrix=used)
            self.targets[tier] = (plan, used)

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """Wall and CPU seconds."""
        if self.cold:
            drop_from_cache(self.source)
        cpu, wall = cpu_seconds(), time.perf_counter()
        work()
        return time.perf_counter() - wall, cpu_seconds() - cpu

    def alone(self, tier: str) -> tuple[float, float]:
        plan, matrix = self.targets[tier]
        output = self.folder / f"alone-{tier}.gguf"
        return self.timed(
            lambda: apex.quantize(
                self.source, plan, output, imatrix=matrix, n_threads=self.threads, force=True
            )
        )

    def together(self) -> tuple[float, float]:
        targets = [
            apex.QuantizeTarget(plan, self.folder / f"together-{tier}.gguf", matrix)
            for tier, (plan, matrix) in self.targets.items()
        ]
        return self.timed(
            lambda: apex.quantize_many(self.source, targets, n_threads=self.threads, force=True)
        )

    def differing(self) -> list[str]:
        return [
            tier
            for tier in self.targets
            if not filecmp.cmp(
                self.folder / f"alone-{tier}.gguf", self.folder / f"together-{tier}.gguf", False
            )
        ]


def median(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return (
        statistics.median(wall for wall, _ in samples),
        statistics.median(cpu for _, cpu in samples),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tiers", default=TIERS)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        bench = Bench(options, Path(scratch))
        size = bench.source.stat().st_size
        samples: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.repeat):
            for tier in bench.targets:
                samples.setdefault(tier, []).append(bench.alone(tier))
            samples.setdefault("together", []).append(bench.together())
        different = bench.differing()
    medians = {name: median(rows) for name, rows in samples.items()}
    together = medians.pop("together")
    print(f"source of {size:,} bytes, {options.threads} threads, {options.repeat} repeats")
    print("| files | wall s | CPU s |\n|---|---|---|")
    for name, (wall, cpu) in medians.items():
        print(f"| {name} alone | {wall:.2f} | {cpu:.2f} |")
    after = tuple(sum(values) for values in zip(*medians.values(), strict=True))
    print(f"| one after the other | {after[0]:.2f} | {after[1]:.2f} |")
    print(f"| together | {together[0]:.2f} | {together[1]:.2f} |")
    slowest = max(wall for wall, _ in medians.values())
    figures = {
        "ratio": after[0] / together[0],
        "cpu_ratio": after[1] / together[1],
        "to_slowest": together[0] / slowest,
        "samples": samples,
        "different": different,
    }
    print(json.dumps(figures))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
