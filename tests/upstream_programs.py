"""Upstream's own programs on the CPU, where their numbers are compared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run_upstream(
    program: Path, *arguments: object, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Both outputs as text. A build with CUDA would take a GPU, whatever `-ngl` says."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **variables},
        capture_output=True,
        text=True,
        check=check,
    )
