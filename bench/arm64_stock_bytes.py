"""Which bytes llama.cpp's quantizers write when a compiler for 64-bit ARM has its own way.

    python bench/arm64_stock_bytes.py [--rows N] [--seed N]

Compilers for arm64 may fuse a product and a sum into one instruction that rounds once; for plain
x86-64 there is no such instruction. This compiles ggml's quantizers as its own build does (``-O3``)
for arm64, with GCC and with Clang, and once more with ``-ffp-contract=off``; runs all of them under
qemu on rows like a model's, and compares block by block with what x86-64 writes. Needs Debian's
g++-aarch64-linux-gnu, clang and qemu-user-static. Prints the table of
bench/results/arm64_stock_bytes.md and, last, a line of JSON. Exits with 1 if a block differs with
``-ffp-contract=off``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from arm64_builds import SYSROOT, build_program, emulator, run_program, write_rows

STOCK = "arm64_quantizers_stock"
OURS = "arm64_quantizers"


def quantize(program: Path, rows: Path, emulate: bool) -> dict[tuple[str, str], np.ndarray]:
    """Blocks as rows of bytes, by type and matrix setting."""
    out = rows.with_name("bytes")
    prefix = [emulator("qemu-aarch64-static"), "-L", SYSROOT] if emulate else []
    lines = run_program(*prefix, program, "bytes", rows, out)
    data = np.fromfile(out, np.uint8)
    blocks, start = {}, 0
    for type, matrix, size, block in lines:
        part = data[start : start + int(size)]
        blocks[type, matrix] = part.reshape(-1, int(block))
        start += int(size)
    return blocks


def differing(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Blocks of a thousand that are not the same."""
    return 1000 * float(np.mean((ours != theirs).any(axis=1)))


def measure(rows: Path) -> dict[str, dict[tuple[str, str], float]]:
    """By build, then type and matrix setting: blocks of a thousand that x86-64 writes otherwise."""
    canonical = quantize(build_program(STOCK), rows, emulate=False)
    builds = {
        "GCC": build_program(STOCK, arm64=True),
        "Clang": build_program(STOCK, arm64=True, clang=True),
        "-ffp-contract=off": build_program(OURS, arm64=True),
    }
    found = {}
    for name, program in builds.items():
        blocks = quantize(program, rows, emulate=True)
        found[name] = {key: differing(canonical[key], blocks[key]) for key in canonical}
    return found


def print_table(found: dict[str, dict[tuple[str, str], float]]) -> None:
    print("| type | GCC, matrix | GCC, no matrix | Clang, matrix | Clang, no matrix |")
    print("|---|---|---|---|---|")
    for type in dict.fromkeys(type for type, _ in found["GCC"]):
        cells = [
            f"{found[build][type, matrix]:.1f}" if (type, matrix) in found[build] else "–"
            for build in ("GCC", "Clang")
            for matrix in ("matrix", "none")
        ]
        print(f"| {type.upper()} | " + " | ".join(cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="rows of 2048 weights")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        write_rows(rows, arguments.rows, arguments.seed)
        found = measure(rows)
    print_table(found)
    plain = {
        build: {f"{type} {matrix}": round(value, 2) for (type, matrix), value in values.items()}
        for build, values in found.items()
    }
    print(json.dumps({"benchmark": "arm64_stock_bytes", "rows": arguments.rows, "differ": plain}))
    return 1 if any(found["-ffp-contract=off"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
