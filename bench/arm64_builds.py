"""What bench/arm64_*.py share: rows, the cross-compiled program, and qemu."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cpp_programs import build_program  # noqa: E402 (only found from here on)

__all__ = ["SYSROOT", "build_program", "emulator", "run_program", "write_rows"]

SYSROOT = Path("/usr/aarch64-linux-gnu")
"""Where Debian's cross compiler has the target's C and C++ libraries."""

WIDTH = 2048
"""Weights of a row; bench/arm64_quantizers.cpp expects it."""


def emulator(name: str) -> Path:
    """The emulator of that name, or an end that says which package brings it."""
    found = shutil.which(name)
    package = "qemu-user-static" if name.endswith("static") else "qemu-user"
    if found is None:
        sys.exit(f"{name} is missing: install {package} (and g++-aarch64-linux-gnu)")
    return Path(found)


def model_rows(n_rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Importances of the columns, and rows like a model's: Gaussian, rounded to BF16."""
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(0.0, 1.0, WIDTH).astype(np.float32)
    rows = rng.standard_normal((n_rows, WIDTH), np.float32) * np.float32(0.02)
    bits = rows.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    bits &= 0xFFFF0000
    return matrix, rows


def write_rows(path: Path, n_rows: int, seed: int) -> None:
    matrix, rows = model_rows(n_rows, seed)
    path.write_bytes(matrix.tobytes() + rows.tobytes())


def run_program(*command: str | Path) -> list[list[str]]:
    """The words of every line a program prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return [line.split() for line in done.stdout.splitlines()]
