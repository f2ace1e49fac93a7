"""apex-native quantize against llama-quantize: whole processes, same file and threads, equal bytes.

    python bench/quantize_vs_llama.py --tools build/reference/reference [--types Q8_0,Q4_K,...]
        [--tiers quality,compact] [--threads N] [--repeat N] [--no-imatrix] [--folder DIR]

Prints a table and, as the last line, a JSON object with ``ratio`` (geometric mean of theirs / ours)
and the figures per type. Exits with 1 if a single tensor byte differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from benchmark_model import N_EXPERT, N_LAYER, write_imatrix, write_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from file_compare import differing_tensors

TYPES = [
    "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS",
    "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in seconds, raw samples kept."""

    name: str
    imatrix: bool
    theirs_s: float
    ours_s: float
    ratio: float
    spread: float
    theirs_samples: list[float]
    ours_samples: list[float]


class Bench:
    """Source, importance matrix and the two commands."""

    def __init__(
        self, tools: Path, folder: Path, threads: int, n_layer: int, n_expert: int
    ) -> None:
        self.tool = tools / "llama-quantize"
        self.folder = folder
        self.threads = threads
        self.source = folder / "source.gguf"
        self.imatrix = folder / "imatrix.gguf"
        if not self.source.exists():
            partial = folder / "source.gguf.partial"
            write_model(partial, n_layer, n_expert)
            partial.rename(self.source)
            write_imatrix(self.imatrix, n_layer, n_expert)

    def commands(
        self, name: str, theirs: Path, ours: Path, *, with_imatrix: bool
    ) -> tuple[list[str], list[str]]:
        """llama-quantize and apex-native that write the same tensors of one type or tier."""
        is_tier = name in apex.tier_names()
        matrix = ["--imatrix", str(self.imatrix)] if with_imatrix else []
        rules = self._rules(name, with_imatrix, is_tier)
        upstream = [str(self.tool), *matrix, "--tensor-type-file", str(rules), str(self.source),
                    str(theirs), "Q8_0", str(self.threads)]  # fmt: skip
        apex_native = [sys.executable, "-m", "apex_native", "quantize", str(self.source),
                       "-o", str(ours), "--force", "--no-manifest", "--quiet",
                       "--threads", str(self.threads), "--prior", "none", *matrix]  # fmt: skip
        if is_tier:
            apex_native += ["--tier", name]
        else:
            apex_native += ["--type", "Q8_0", "--tensor-type-file", str(rules)]
        return upstream, apex_native

    def measure(self, name: str, repeat: int, with_imatrix: bool) -> Row:
        """Time both programs, interleaved, and compare what they wrote."""
        theirs, ours = self.folder / "theirs.gguf", self.folder / "ours.gguf"
        upstream, apex_native = self.commands(name, theirs, ours, with_imatrix=with_imatrix)
        samples: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(repeat):
            samples["theirs"].append(timed(upstream, theirs))
            samples["ours"].append(timed(apex_native, ours))
        require_equal(ours, theirs)
        theirs_s = statistics.median(samples["theirs"])
        ours_s = statistics.median(samples["ours"])
        spread = (max(samples["ours"]) - min(samples["ours"])) / ours_s
        return Row(name, with_imatrix, theirs_s, ours_s, theirs_s / ours_s, spread,
                   samples["theirs"], samples["ours"])  # fmt: skip

    def _rules(self, name: str, with_imatrix: bool, is_tier: bool) -> Path:
        """One rule per tensor, so that llama-quantize writes exactly our plan."""
        path = self.folder / "rules.txt"
        with apex.open_gguf(self.source) as model:
            matrix = apex.load_imatrix(self.imatrix) if with_imatrix else None
            if is_tier:
                types = apex.make_plan(model, tier=name, imatrix=matrix).types
            else:
                types = {tensor.name: apex.GgmlType.parse(name) for tensor in model.tensors}
        lines = (f"^{re.escape(tensor)}$={type}\n" for tensor, type in types.items())
        path.write_text("".join(lines))
        return path


def timed(command: list[str], output: Path) -> float:
    """Seconds of one run; what it wrote before is deleted first."""
    output.unlink(missing_ok=True)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return elapsed


def require_equal(ours: Path, theirs: Path) -> None:
    """Exit unless all tensors are the same bytes."""
    problems = differing_tensors(ours, theirs)
    if problems:
        sys.exit(f"the files differ: {problems[0]} ({len(problems)} tensors)")


def _print_rows(rows: list[Row], say: Callable[[str], None]) -> None:
    say("type       imatrix   llama-quantize  apex-native   ratio  spread")
    for row in rows:
        matrix = "yes" if row.imatrix else "no"
        say(
            f"{row.name:10} {matrix:8} {row.theirs_s:13.2f} s {row.ours_s:10.2f} s "
            f"{row.ratio:6.2f}x {100 * row.spread:5.1f} %"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-quantize")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--tiers", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--layers", type=int, default=N_LAYER, help="2 of 256 experts: 3.2 GB")
    parser.add_argument("--experts", type=int, default=N_EXPERT, help="for tiers: 6 layers of 86")
    parser.add_argument("--no-imatrix", action="store_true")
    default = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path()
    parser.add_argument("--folder", type=Path, default=default)
    parser.add_argument("--keep", action="store_true", help="keep the source for another run")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    folder = arguments.folder / (
        f"apex-bench-{arguments.layers}x{arguments.experts}"
        if arguments.keep
        else f"apex-bench-{os.getpid()}"
    )
    folder.mkdir(exist_ok=arguments.keep)
    try:
        bench = Bench(
            arguments.tools, folder, arguments.threads, arguments.layers, arguments.experts
        )
        names = [
            name for name in (*arguments.types.split(","), *arguments.tiers.split(",")) if name
        ]
        rows = []
        for name in names:
            row = bench.measure(name, arguments.repeat, not arguments.no_imatrix)
            rows.append(row)
            print(f"  {name}: {row.ratio:.2f}x", file=sys.stderr)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    _print_rows(rows, print)
    geomean = math.exp(statistics.fmean(math.log(row.ratio) for row in rows))
    print(
        json.dumps(
            {
                "benchmark": "quantize_vs_llama",
                "ratio": round(geomean, 3),
                "threads": arguments.threads,
                "machine": platform.processor() or platform.machine(),
                "version": apex.__version__,
                "rows": [asdict(row) for row in rows],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
