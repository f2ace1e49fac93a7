"""Nothing takes x86 for granted: what only it has stands behind a question for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
X86_HEADER = re.compile(r"#\s*include\s*<(?:\w*intrin|cpuid)\.h>")
FOR_X86 = re.compile(r"_(?:avx\w*|x86)\.h$")
"""Our headers of one instruction set, which take it for granted."""


def conditions(text: str) -> Iterator[tuple[str, str]]:
    """Each line of C++ with the conditions of the preprocessor that it stands under."""
    stack: list[str] = []
    for line in text.splitlines():
        word = re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b(.*)", line)
        if word is None:
            yield line, " ".join(stack)
        elif word[1].startswith("if"):
            stack.append(word[2])
        elif word[1] == "endif":
            stack.pop()
        else:
            stack[-1] = word[2]


def test_headers_of_x86_are_asked_for() -> None:
    found = 0
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in {".h", ".cpp"}:
            continue
        for line, under in conditions(path.read_text()):
            ours = re.match(r'\s*#\s*include\s*"(\S+)"', line)
            theirs = X86_HEADER.search(line) and not FOR_X86.search(path.name)
            if theirs or (ours and FOR_X86.search(ours[1])):
                found += 1
                assert re.search("__x86_64__|__AVX", under), f"{path}: {line}"
    assert found > 3  # the search itself


def test_flags_and_sources_of_x86_are_asked_for() -> None:
    files = [ROOT / "CMakeLists.txt", *ROOT.glob("csrc/**/CMakeLists.txt")]
    files.append(ROOT / "third_party/llama.cpp/CMakeLists.txt")
    found = 0
    for path in files:
        under: list[str] = []
        for line in path.read_text().splitlines():
            word = line.strip()
            if word.startswith("if("):
                under.append(word)
            elif word.startswith("elseif("):
                under[-1] = word
            elif word.startswith("endif("):
                under.pop()
            elif re.search(r"\s-m(?:avx|f16c|fma|sse|arch)|isa SSE42", line):
                found += 1
                assert any("x86_64" in condition for condition in under), f"{path}: {line}"
    assert found


def architecture(*defines: str) -> subprocess.CompletedProcess[str]:
    """What cmake/architecture.cmake makes of variables."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not on the path")
    script = 'include(cmake/architecture.cmake)\nmessage(STATUS "${CMAKE_SYSTEM_PROCESSOR}")\n'
    return subprocess.run(
        [cmake, *defines, "-P", "/dev/stdin"],
        input=script, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


def test_a_mac_that_builds_for_the_other_processor_is_heard() -> None:
    crossing = ("-DCMAKE_SYSTEM_PROCESSOR=x86_64", "-DCMAKE_OSX_ARCHITECTURES=arm64")
    assert "-- arm64" in architecture(*crossing).stdout
    assert "-- x86_64" in architecture("-DCMAKE_SYSTEM_PROCESSOR=x86_64").stdout


def test_two_architectures_in_one_build_are_refused() -> None:
    done = architecture("-DCMAKE_OSX_ARCHITECTURES=arm64;x86_64")
    assert done.returncode != 0
    assert "expected one architecture" in done.stderr
