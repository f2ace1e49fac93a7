"""The extension against its stub: every name is in both (mypy's stubtest).

pybind11 gives its functions no signature that Python can read, so parameters are not compared;
the calls in `tests` and `python` are what runs them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")


def stubtest(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "apex_native._core", "--concise", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(sys.prefix),  # the installed package, not the source tree's
    )


def test_the_stub_names_what_the_extension_has() -> None:
    done = stubtest()
    assert done.stderr == ""
    # pybind11 gives its classes a metaclass of its own, which says nothing about them.
    differing = [
        line for line in done.stdout.splitlines() if not line.endswith("metaclass differs")
    ]
    assert differing == [], done.stdout
