"""A folder with 64-bit ARM Linux, Python and this package's dependencies, for qemu-user to run.

    python wheels/arm64_root.py ROOT                      # Debian's python3 and its headers, 0.4 GB
    python wheels/arm64_root.py ROOT --install WHEEL      # the package and all it needs, and pytest
    python wheels/arm64_root.py ROOT --run -m pytest ...  # that Python, emulated

Needs Debian's debootstrap and qemu-user-static, and root's rights to unpack. Packages come from
where this machine's apt and pip get theirs. The Python there has to have this one's version, for
pip picks wheels by it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = "python3,libpython3-dev,libstdc++6"
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)]
TESTS_NEED = ["pytest", "gguf", "hypothesis"]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is missing: install Debian's package {name.replace('-aarch64', '-user')}")
    return found


def create(root: Path) -> None:
    """Unpack Debian; nothing in it runs, so nothing is configured."""
    if root.exists() and any(root.iterdir()):
        sys.exit(f"{root} is not empty: name a new folder")
    command = [tool("debootstrap"), "--foreign", "--arch=arm64", "--variant=minbase"]
    subprocess.run([*command, f"--include={PACKAGES}", "bookworm", str(root)], check=True)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run([tool("dpkg"), "-x", str(package), str(root)], check=True)


def install(root: Path, wheel: Path) -> None:
    """Wheels for 64-bit ARM only: nothing there could build one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"),
            *("--target", str(packages(root)), "--only-binary", ":all:"),
            *("--implementation", "cp", "--python-version", version, *platforms),
            *("--platform", "manylinux2014_aarch64", str(wheel), *TESTS_NEED),
        ],
        check=True,
    )


def packages(root: Path) -> Path:
    return root / "opt" / "packages"


def run(root: Path, arguments: list[str]) -> int:
    python = root / "usr" / "bin" / f"python3.{sys.version_info.minor}"
    environment = {**os.environ, "PYTHONPATH": str(packages(root)), "QEMU_LD_PREFIX": str(root)}
    command = [tool("qemu-aarch64-static"), str(python), *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--install", type=Path, metavar="WHEEL")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.install:
        install(root, arguments.install)
    elif arguments.run is not None:
        return run(root, arguments.run)
    else:
        create(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
