"""The one-way flow of the native core: which folder, and which file, may include which.

The build enforces most of it, for a library sees the headers of what it links and no others
(csrc/CMakeLists.txt); these tests also see what a machine without CUDA does not compile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"

MAY_INCLUDE = {
    "turbo": set[str](),
    "kernels": set[str](),
    "core": {"kernels"},
    "moments": {"kernels", "core"},
    "model": {"turbo", "kernels", "core"},
    "scoring": {"kernels", "core", "model"},
    "calibration": {"core", "moments", "model"},
    "tasks": {"core", "model", "scoring"},
    "allocation": {"core", "model", "scoring"},
    "cuda": {"kernels", "core", "moments", "scoring", "calibration"},
    "bench": {"core", "model", "cuda"},
    "bind": {"kernels", "core", "moments", "model", "scoring", "calibration", "tasks", "allocation"}
    | {"bench"},
}
"""Folders from left to right, and whose headers each may see besides its own."""

PRIVATE_TO_LLAMA_CPP = re.compile(r"llama-(?!cpp\.h)\S*|traits\.h")
"""Headers that upstream does not install: they change without notice."""

WITHOUT_LLAMA_CPP = ("turbo", "kernels", "core", "moments", "cuda")

SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".h", ".cu", ".cuh"})


def name_of(path: Path) -> str:
    return path.relative_to(CSRC).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def own_includes(path: Path) -> Iterator[str]:
    """Files of csrc that a file includes, as paths below it."""
    for name in includes(path):
        for folder in (path.parent, CSRC):
            if (folder / name).is_file():
                yield name_of(folder / name)
                break


def test_every_folder_has_its_place() -> None:
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(MAY_INCLUDE)
    order = list(MAY_INCLUDE)
    for folder, seen in MAY_INCLUDE.items():
        assert seen <= set(order[: order.index(folder)])


@pytest.mark.parametrize("folder", MAY_INCLUDE)
def test_includes_come_from_the_left(folder: str) -> None:
    climbing = [
        f"{name_of(path)} includes {included}"
        for path in SOURCES
        if path.parent.name == folder
        for included in own_includes(path)
        if included.split("/")[0] not in MAY_INCLUDE[folder] | {folder}
    ]
    assert climbing == []


def test_no_file_includes_itself_by_a_detour() -> None:
    graph = {name_of(path): set(own_includes(path)) for path in SOURCES}
    assert sum(len(included) for included in graph.values()) > 300  # they are found at all
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_quoted_include_is_found_here_or_is_upstreams() -> None:
    lost = [
        f"{name_of(path)} includes {name}"
        for path in SOURCES
        for name in includes(path)
        if name.startswith(tuple(f"{folder}/" for folder in MAY_INCLUDE))
        and not (CSRC / name).is_file()
    ]
    assert lost == []


def test_only_models_see_llama_cpps_private_headers() -> None:
    seeing = {path.parent.name for path in SOURCES if any_private(path)}
    assert seeing == {"model"}


def any_private(path: Path) -> bool:
    return any(PRIVATE_TO_LLAMA_CPP.fullmatch(name) for name in includes(path))


def base_sources(folder: str) -> set[str]:
    """Sources of a folder's *_base library, from its CMakeLists.txt."""
    text = (CSRC / folder / "CMakeLists.txt").read_text()
    listed = re.search(rf"apex_add_library\(apex_{folder}_base\s([^)]*)\)", text)
    assert listed is not None
    return {f"{folder}/{name}" for name in listed[1].split()}


def reached_from(names: set[str]) -> set[str]:
    """These files and all they include, directly or not."""
    reached, waiting = set[str](), set(names)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= set(own_includes(CSRC / name)) - reached
    return reached


def test_arithmetic_needs_no_llama_cpp() -> None:
    names = {name_of(p) for p in SOURCES if p.parent.name in WITHOUT_LLAMA_CPP}
    for name in reached_from(names | base_sources("scoring") | base_sources("calibration")):
        assert not [n for n in includes(CSRC / name) if n.startswith("llama")], name


def test_only_bindings_know_python() -> None:
    for path in SOURCES:
        if path.parent.name != "bind":
            assert "pybind11" not in path.read_text(), path
            assert "Python.h" not in path.read_text(), path


def test_one_header_includes_pybind11() -> None:
    including = [p.name for p in SOURCES if "#include <pybind11" in p.read_text()]
    assert including == ["module.h"]


# --- sizes --------------------------------------------------------------------------------------

MAX_FUNCTION_LINES = 50
LONG_KERNELS = {
    "kernels/search_positive_scale.h",
    "kernels/search_scale_min.h",
    "kernels/q3_k.cpp",
    "cuda/search_scale_min.cuh",
    "cuda/routed_products.cu",
}
MAX_KERNEL_LINES = 80
"""Searches follow ggml's step by step, a GPU's kernel its tiles; both hold all they know in
registers: a part of one would take and give a dozen vectors."""

NO_FUNCTION = re.compile(
    r"(\} )?(namespace|struct|class|enum|union|extern|switch|if|for|while|else|do|try|catch|"
    r"return)\b"
)


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def functions(text: str) -> Iterator[tuple[str, int]]:
    """(signature, lines from it to the closing brace) of functions, as clang-format lays them out.

    Those of files and of classes; lambdas are part of the function they stand in.
    """
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if not line.endswith("{"):
            continue
        begin = i
        while (
            begin > 0
            and (above := lines[begin - 1].strip())
            and not above.endswith((";", "{", "}", ":"))
            and not above.startswith(("//", "#"))
        ):
            begin -= 1
        signature = " ".join(part.strip() for part in lines[begin : i + 1])
        is_function = re.search(r"\)[^()]*\{$", signature) and not NO_FUNCTION.match(signature)
        if not is_function or indent(lines[begin]) > 4:
            continue
        for end in range(i + 1, len(lines)):
            if lines[end].lstrip().startswith("}") and indent(lines[end]) == indent(lines[begin]):
                yield signature, end - begin + 1
                break


def test_functions_are_found() -> None:
    text = "int f(int a,\n      int b) {\n    if (a) {\n    }\n    return b;\n}\n"
    assert list(functions(text)) == [("int f(int a, int b) {", 6)]
    assert sum(1 for path in SOURCES for _ in functions(path.read_text())) > 1000


def test_native_functions_are_short() -> None:
    long = {
        f"{name_of(path)}: {signature}": n
        for path in SOURCES
        for signature, n in functions(path.read_text())
        if n > (MAX_KERNEL_LINES if name_of(path) in LONG_KERNELS else MAX_FUNCTION_LINES)
    }
    assert long == {}


def test_every_exception_is_one() -> None:
    for name in LONG_KERNELS:
        lengths = [n for _, n in functions((CSRC / name).read_text())]
        assert max(lengths) > MAX_FUNCTION_LINES, name
