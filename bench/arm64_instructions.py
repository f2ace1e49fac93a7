"""Instructions per weight on 64-bit ARM: our kernels and ggml's functions.

    python bench/arm64_instructions.py [--rows N]

No ARM machine is needed: qemu-aarch64 runs the cross-compiled program and a plugin counts what it
executes (bench/count_instructions.c). ggml's functions are compiled as its own build does, ``-O3``
with whatever fused and vector instructions GCC chooses. Counts are exact and repeat; what they say
of time is that fewer instructions mostly take less of it. Needs Debian's g++-aarch64-linux-gnu and
qemu-user (the static build loads no plugins). Prints the table of
bench/results/arm64_instructions.md and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from arm64_builds import SYSROOT, build_program, emulator, run_program, write_rows

PLUGIN = Path(__file__).with_name("count_instructions.c")
PROGRAM = "arm64_quantizers_stock"


def measure(folder: Path, n_rows: int) -> dict[tuple[str, str, str], float]:
    """Instructions per weight by type, matrix setting and side."""
    rows, counts, plugin = folder / "rows", folder / "counts", folder / "count.so"
    write_rows(rows, n_rows, seed=7)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", plugin, PLUGIN], check=True)
    qemu = [emulator("qemu-aarch64"), "-L", SYSROOT, "-plugin", f"{plugin},out={counts}"]
    lines = run_program(*qemu, build_program(PROGRAM, arm64=True), "count", rows)
    marks = iter(map(int, counts.read_text().split()))
    found = {}
    for type, matrix, side, n_weights in lines:
        before, after = next(marks), next(marks)
        found[type, matrix, side] = (after - before) / int(n_weights)
    return found


def ratios(found: dict[tuple[str, str, str], float]) -> dict[tuple[str, str], float]:
    return {
        (type, matrix): value / found[type, matrix, "ours"]
        for (type, matrix, side), value in found.items()
        if side == "ggml"
    }


def print_table(found: dict[tuple[str, str, str], float]) -> None:
    print("| type | matrix | ggml | ours | ratio |")
    print("|---|---|---|---|---|")
    for (type, matrix), ratio in ratios(found).items():
        theirs, ours = (found[type, matrix, side] for side in ("ggml", "ours"))
        said = "yes" if matrix == "matrix" else "no"
        print(f"| {type.upper()} | {said} | {theirs:.1f} | {ours:.1f} | {ratio:.2f} |")


def summary(found: dict[tuple[str, str, str], float]) -> dict[str, object]:
    by_matrix = {
        matrix: {type: round(r, 2) for (type, m), r in ratios(found).items() if m == matrix}
        for matrix in ("matrix", "none")
    }
    return {
        "benchmark": "arm64_instructions",
        "geomean": round(statistics.geometric_mean(by_matrix["matrix"].values()), 2),
        "geomean_without_matrix": round(statistics.geometric_mean(by_matrix["none"].values()), 2),
        "ratio": by_matrix["matrix"],
        "ratio_without_matrix": by_matrix["none"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="rows of 2048 weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.rows)
    print_table(found)
    print(json.dumps(summary(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
