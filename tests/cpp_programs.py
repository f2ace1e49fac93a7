"""Builds the C++ test programs of tests/cpp; later calls only compile what has changed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _tool(name: str) -> str:
    """A program of this environment's own packages, or else of the system."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))
    assert found, f"{name} is missing: pip install '.[test]' brings it"
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


ARM64_TOOLCHAIN = ROOT / "cmake" / "aarch64-linux-gnu.cmake"


def build_program(
    target: str, *, sanitize: bool = False, arm64: bool = False, clang: bool = False
) -> Path:
    """Path of a built program; sanitize: with address and undefined-behaviour sanitizers.

    arm64: for 64-bit ARM Linux, which runs under qemu only; clang: by Clang there, not by GCC.
    The environment's APEX_LLAMA_CPP_DIR is the source where none can be downloaded.
    """
    name = "arm64" if arm64 else "sanitize" if sanitize else "tests"
    folder = ROOT / "build" / (f"{name}-clang" if clang else name)
    toolchain = [f"-DCMAKE_TOOLCHAIN_FILE={ARM64_TOOLCHAIN}"] if arm64 else []
    if clang:
        toolchain.append("-DAPEX_CROSS_CLANG=ON")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # tests may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        _configure_and_build(folder, target, sanitize, toolchain)
    return folder / "tests" / "cpp" / target


def _configure_and_build(folder: Path, target: str, sanitize: bool, toolchain: list[str]) -> None:
    _run(
        *(_tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
        *(f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}"),
        *("-DAPEX_BUILD_EXTENSION=OFF", "-DAPEX_BUILD_TESTS=ON"),
        f"-DAPEX_SANITIZE={'ON' if sanitize else 'OFF'}",
        *(f"-D{name}={os.environ[name]}" for name in ["APEX_LLAMA_CPP_DIR"] if name in os.environ),
        *toolchain,
    )
    _run(_tool("cmake"), "--build", str(folder), "--target", target)
