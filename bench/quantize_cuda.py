"""apex-native quantize --device cuda against llama-quantize and our CPU path, whole processes.

    python bench/quantize_cuda.py --tools build/reference/reference [--types Q8_0,Q4_K,...]
        [--device cuda] [--threads N] [--repeat 3] [--cpu-repeat 1] [--llama-repeat 1]
        [--folder DIR]

The file is that of quantize_vs_llama.py: 1.61 billion BF16 weights, with importance matrix. Each
of our runs is a process of its own, from the cached source to the closed, synced output.
llama-quantize runs --llama-repeat times (0 leaves it out: then our two are compared). Every file is
compared with our CPU path's byte for byte. Prints a table and, as the last line, a JSON object.
Exits with 1 if a tensor byte differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native.quantization import list_gpus
from benchmark_model import N_EXPERT, N_LAYER
from quantize_vs_llama import Bench, require_equal, timed

TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "IQ4_XS", "IQ2_XXS", "IQ2_S"]


@dataclass(frozen=True)
class Row:
    """One type: medians and samples in seconds, ratios over our GPU time."""

    name: str
    llama_s: float | None
    cpu_s: float
    cuda_s: float
    over_llama: float | None
    over_cpu: float
    spread: float
    llama_samples: list[float]
    cpu_samples: list[float]
    cuda_samples: list[float]


def measure(bench: Bench, name: str, arguments: argparse.Namespace) -> Row:
    """Time the programs, interleaved, and compare what they wrote."""
    theirs, cpu, cuda = (bench.folder / f"{who}.gguf" for who in ("theirs", "cpu", "cuda"))
    upstream, own = bench.commands(name, theirs, cpu, with_imatrix=True)
    on_gpu = [*bench.commands(name, theirs, cuda, with_imatrix=True)[1], "--device",
              arguments.device]  # fmt: skip
    samples: dict[str, list[float]] = {"llama": [], "cpu": [], "cuda": []}
    repeats = {"llama": arguments.llama_repeat, "cpu": arguments.cpu_repeat,
               "cuda": arguments.repeat}  # fmt: skip
    runs = {"llama": (upstream, theirs), "cpu": (own, cpu), "cuda": (on_gpu, cuda)}
    for i in range(max(repeats.values())):
        for who, (command, output) in runs.items():
            if i < repeats[who]:
                samples[who].append(timed(command, output))
    require_equal(cuda, cpu)
    if arguments.llama_repeat:
        require_equal(cuda, theirs)
    cpu_s, cuda_s = (statistics.median(samples[who]) for who in ("cpu", "cuda"))
    llama_s = statistics.median(samples["llama"]) if samples["llama"] else None
    spread = (max(samples["cuda"]) - min(samples["cuda"])) / cuda_s
    return Row(name, llama_s, cpu_s, cuda_s, llama_s / cuda_s if llama_s else None, cpu_s / cuda_s,
               spread, samples["llama"], samples["cpu"], samples["cuda"])  # fmt: skip


def print_rows(rows: list[Row]) -> None:
    """The table, as Markdown."""
    print(
        "| type | llama-quantize | apex-native CPU | apex-native GPU | × llama | × CPU | spread |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        llama = "–" if row.llama_s is None else f"{row.llama_s:.2f} s"
        ratio = "–" if row.over_llama is None else f"{row.over_llama:.1f}"
        print(
            f"| {row.name} | {llama} | {row.cpu_s:.2f} s | {row.cuda_s:.2f} s | {ratio} | "
            f"{row.over_cpu:.2f} | {100 * row.spread:.1f} % |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-quantize")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cpu-repeat", type=int, default=1, help="at least 1: it is compared with")
    parser.add_argument("--llama-repeat", type=int, default=1)
    parser.add_argument("--layers", type=int, default=N_LAYER)
    parser.add_argument("--experts", type=int, default=N_EXPERT)
    default = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path()
    parser.add_argument("--folder", type=Path, default=default)
    parser.add_argument("--keep", action="store_true", help="keep the source for another run")
    return parser.parse_args()


def main() -> int:
    """Measure all types and print them."""
    arguments = _arguments()
    shape = f"{arguments.layers}x{arguments.experts}"
    folder = arguments.folder / f"apex-bench-{shape if arguments.keep else os.getpid()}"
    folder.mkdir(exist_ok=arguments.keep)
    try:
        start = time.perf_counter()
        bench = Bench(
            arguments.tools, folder, arguments.threads, arguments.layers, arguments.experts
        )
        print(f"source in {folder}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        rows = []
        for name in arguments.types.split(","):
            rows.append(measure(bench, name, arguments))
            print(f"  {rows[-1]}", file=sys.stderr)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print_rows(rows)
    ratios = [row.over_llama or row.over_cpu for row in rows]
    print(
        json.dumps(
            {
                "benchmark": "quantize_cuda",
                "ratio": round(math.exp(statistics.fmean(map(math.log, ratios))), 3),
                "threads": arguments.threads,
                "machine": platform.processor() or platform.machine(),
                "gpus": [gpu.name for gpu in list_gpus()],
                "version": apex.__version__,
                "rows": [asdict(row) for row in rows],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
