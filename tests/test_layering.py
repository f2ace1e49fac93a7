"""The one-way flow of stages and files, what imports without the native core, sizes of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "apex_native"

ORDER = [
    *(
        "errors",
        "closable",
        "argument_kinds",
        "printable",
        "progress_bar",
        "atomic_write",
        "text_file",
        "json_codec",
        "types",
        "interrupt",
        "ahead",
        "results",
    ),
    *("_core", "cuda_libraries", "_native"),
    *("memory_limit", "machine", "gguf_layout", "fingerprint", "gguf_encode"),
    "hub",
    "requirements",
    # the stages
    *("weights", "gpu_layers", "streaming", "engine", "read_ahead"),
    *(
        "gguf",
        "conversion",
        "pruning",
        "classification",
        "plan",
        "memory",
        "corpus",
        "imatrix",
        "quantization",
        "evaluation",
        "allocation",
        "reports",
        "publish",
    ),
    # what is made of all of them
    *("api", "demo_text", "demo", "sweeps", "demo_run", "self_test", "cli", "__main__"),
]
"""A module imports only from its left."""

PURE = {"classification", "plan", "reports", "results"}
PURE_MAY_IMPORT = {
    *(
        "errors",
        "argument_kinds",
        "printable",
        "atomic_write",
        "json_codec",
        "types",
        "gguf_layout",
    ),
    *PURE,
}
"""What needs neither numpy nor the native core."""

MAY_IMPORT_NUMPY = {
    "conversion",
    "corpus",
    "engine",
    "gguf",
    "imatrix",
    "weights",
    "quantization",
    "evaluation",
    "allocation",
    "sweeps",
    "demo",
    "self_test",
}

NATIVE_SUFFIXES = {".cpp", ".h", ".cu", ".cuh"}

MAX_PYTHON_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_CPP_LINES = 400
MAX_BINDING_LINES = 200


def source_files(package: Path = PACKAGE) -> list[Path]:
    return sorted(package.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The stage or module a file belongs to: the first part of its path in the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all modules a file imports, anywhere in it, type checking included."""
    own_package = ["apex_native", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = own_package[: len(own_package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if module == "apex_native":
                yield from (f"apex_native.{alias.name}" for alias in node.names)
            else:
                yield module


def units_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports_of(path)]
    return {parts[1] if len(parts) > 1 else "" for parts in names if parts[0] == "apex_native"}


UNITS = sorted({unit_of(path) for path in source_files()} - {"__init__"})


def test_every_module_has_its_place() -> None:
    assert [unit for unit in UNITS if unit not in ORDER] == []


@pytest.mark.parametrize("unit", UNITS)
def test_imports_come_from_the_left(unit: str) -> None:
    left = set(ORDER[: ORDER.index(unit)])
    for path in source_files():
        if unit_of(path) == unit:
            assert units_imported(path) <= left | {unit}, path


def import_graph() -> dict[str, set[str]]:
    """The files of the package that each of them imports, by the names of their modules."""
    paths = {module_of(path): path for path in source_files()}
    graph = {}
    for module, path in paths.items():
        # `from package import submodule` imports the submodule.
        members = {
            f"{node.module}.{alias.name}": node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module is not None
            for alias in node.names
        }
        values = {owner for member, owner in members.items() if member not in paths}
        names = {name for name in imports_of(path) if name not in members.values()}
        graph[module] = ((names | values | set(members)) & paths.keys()) - {module}
    return graph


def module_of(path: Path) -> str:
    parts = ["apex_native", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of a cycle, or nothing: what is left after taking away all that depends on nothing."""
    left = {node: set(others) for node, others in graph.items()}
    while free := [node for node, others in left.items() if not others & left.keys()]:
        for node in free:
            del left[node]
    return sorted(left)


def test_files_import_each_other_in_one_direction() -> None:
    assert cycle_in(import_graph()) == []


def test_a_cycle_of_files_is_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [*"abcd"]
    graph = import_graph()
    assert "apex_native.results.checks" in graph["apex_native.results.document"]
    graph["apex_native.results.checks"].add("apex_native.results.document")
    assert "apex_native.results.checks" in cycle_in(graph)


def test_nothing_imports_the_package_itself() -> None:
    # `import apex_native` in a stage would pull in all the others.
    for path in source_files():
        if unit_of(path) != "cli":
            assert "" not in units_imported(path), path


def test_the_front_door_does_not_import_the_command_line() -> None:
    assert not units_imported(PACKAGE / "__init__.py") & {"cli", "__main__", "self_test"}


@pytest.mark.parametrize("unit", sorted(PURE))
def test_pure_stages_import_only_pure_modules(unit: str) -> None:
    files = [path for path in source_files() if unit_of(path) == unit]
    assert files
    for path in files:
        assert units_imported(path) <= PURE_MAY_IMPORT, path


def test_numpy_is_for_stages_that_hold_weights() -> None:
    for path in source_files():
        if any(name.split(".")[0] == "numpy" for name in imports_of(path)):
            assert unit_of(path) in MAY_IMPORT_NUMPY, path


WITHOUT_NATIVE_CORE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy" or name.startswith("numpy.") or name == "apex_native._core":
            raise ImportError(f"{name} is blocked by the test")

sys.meta_path.insert(0, Blocked())
import apex_native.classification, apex_native.plan, apex_native.reports, apex_native.results
from apex_native.errors import NativeModuleError
from apex_native.classification import classify_tensors
from apex_native.types import GgmlType, GgufFacts, TensorInfo

facts = GgufFacts(
    metadata={"general.architecture": "llama"},
    tensors=(TensorInfo("token_embd.weight", (8, 256), GgmlType.F16, 4096),),
    kv_sizes={},
)
assert classify_tensors(facts).tensors[0].role.value == "embedding"
assert "numpy" not in sys.modules
from apex_native._native import core
try:
    core.build_info()
except NativeModuleError as error:
    print(error)
"""


def test_pure_stages_work_without_native_core_and_numpy() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_NATIVE_CORE],
        env={"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "the native core of apex_native could not be loaded" in run.stdout
    assert "is blocked by the test" in run.stdout
    assert "pip install" in run.stdout


# --- sizes --------------------------------------------------------------------------------------


def python_files() -> list[Path]:
    folders = ("python", "tests", "bench", "third_party")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_python_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): n_lines(p) for p in python_files()}
    assert {name: n for name, n in long.items() if n > MAX_PYTHON_LINES} == {}


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from def to end, the docstring not counted."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_python_functions_are_short() -> None:
    long = {}
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = function_lines(node)
                if lines > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert long == {}


@pytest.mark.parametrize(
    ("folder", "limit"),
    [("csrc", MAX_CPP_LINES), ("csrc/bind", MAX_BINDING_LINES), ("tests/cpp", MAX_CPP_LINES)],
)
def test_native_files_are_short(folder: str, limit: int) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in NATIVE_SUFFIXES]
    assert files
    assert {str(p.relative_to(ROOT)): n_lines(p) for p in files if n_lines(p) > limit} == {}
