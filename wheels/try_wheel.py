"""Install a wheel as most users do, into an empty environment without a compiler, and run the demo.

    python wheels/try_wheel.py dist/apex_native-*-x86_64.whl

Fails if the wheel is larger than 60 MB, if pip would have to build anything, or if the demo fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

MOST_BYTES = 60_000_000


def run(folder: Path, *command: str) -> None:
    """A program of the environment, with nothing else on its path: no compiler, no cmake."""
    bin = folder / "bin"
    done = subprocess.run(
        [str(bin / command[0]), *command[1:]],
        env={"PATH": str(bin), "HOME": str(folder), "LANG": "C.UTF-8"},
        cwd=folder,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")


def try_wheel(wheel: Path, folder: Path) -> None:
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{wheel.name} has {size:,} bytes: expected at most {MOST_BYTES:,}")
    venv.create(folder, with_pip=True)
    run(folder, "pip", "install", "--quiet", "--only-binary", ":all:", str(wheel))
    run(folder, "apex-native", "doctor")
    run(folder, "apex-native", "demo")
    print(f"{wheel.name}: {size:,} bytes, installed without a compiler, demo ran")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
