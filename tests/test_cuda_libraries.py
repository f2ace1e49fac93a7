"""CUDA's libraries from wheels: found by version and loaded."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apex_native.cuda_libraries import load_from_wheels

NAMES = ("libcudart.so.97", "libcublasLt.so.97", "libcublas.so.97")
MESSAGE = "libcublas.so.97: cannot open shared object file: No such file or directory"

LOAD_BY_NAME = """
import ctypes, sys
from apex_native.cuda_libraries import load_from_wheels
before = True
try:
    ctypes.CDLL("libcublas.so.97")
except OSError:
    before = False
print(before, load_from_wheels(sys.argv[1], [sys.argv[2]]), ctypes.CDLL("libcublas.so.97").answer())
"""


def build_library(path: Path, source: str = "int answer(void) { return 42; }") -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "the build of the package needs a C compiler"
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path, f"-Wl,-soname,{path.name}"],
        input=source, text=True, check=True,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="sonames are Linux's")
def test_a_library_of_a_wheel_is_there_for_who_names_it(tmp_path: Path) -> None:
    for name in NAMES:
        build_library(tmp_path / "nvidia" / "cu97" / "lib" / name)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_BY_NAME, MESSAGE, tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True", "42"], done.stderr


def test_what_is_no_library_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "cu97" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu97" / "lib" / NAMES[0]).write_text("no library")
    assert load_from_wheels(MESSAGE, [str(tmp_path)])
    with pytest.raises(OSError, match=r"libcudart\.so\.97"):
        ctypes.CDLL("libcudart.so.97")


def test_other_messages_are_not_its_business() -> None:
    assert not load_from_wheels("libfoo.so.1: cannot open shared object file")
    assert not load_from_wheels("No module named 'apex_native._core'")
