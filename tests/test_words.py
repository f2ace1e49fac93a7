"""Errors of the library speak Python, those of the command line speak options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.cli.option_names import in_options
from apex_native.errors import OutputError
from cli_tools import invoke

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "apex_native"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(r"`(?:apex-native|llama-\w+|--tier) [^`]*`")
WRITES_COMMAND_LINES = {"memory/fit.py", "publish/card.py", "publish/making.py"}
"""What they say is for a shell, in other programs' options too."""
CODE = re.compile(r'"((?:[^"\\]|\\.)*)"')


def library_files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts]


def texts_of(path: Path) -> Iterator[str]:
    """String constants of a Python file but its docstrings."""
    tree = ast.parse(path.read_text())
    documented = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in documented:
            yield node.value


def test_no_text_of_the_library_names_an_option() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in library_files()
        if str(path.relative_to(PACKAGE)) not in WRITES_COMMAND_LINES
        for text in texts_of(path)
        if OPTION.search(COMMAND.sub("", text))
    }
    assert found == set()


def test_no_text_of_the_native_core_names_an_option() -> None:
    found = [
        f"{path.name}: {text}"
        for path in sorted((ROOT / "csrc").rglob("*"))
        if path.suffix in {".cpp", ".h", ".cu", ".cuh"}
        for text in CODE.findall(path.read_text())
        if OPTION.search(COMMAND.sub("", text))
    ]
    assert found == []


def test_arguments_become_options() -> None:
    assert in_options("exists; pass `force=True`") == "exists; pass --force"
    assert in_options("raise `max_memory` or lower `n_threads`") == (
        "raise --max-memory or lower --threads"
    )
    assert in_options("`apex-native doctor` and `unknown=1` stay") == (
        "`apex-native doctor` and `unknown=1` stay"
    )


def test_every_switch_that_is_named_has_an_option() -> None:
    switches = {
        found
        for path in library_files()
        for text in texts_of(path)
        for found in re.findall(r"`(\w+=(?:True|False))`", text)
    }
    assert {"force=True", "resume=True"} <= switches
    assert [switch for switch in switches if in_options(f"`{switch}`") == f"`{switch}`"] == []


def test_one_error_in_two_languages(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_text("precious")
    with apex.open_gguf(apex.demo_model()) as model:
        plan = apex.make_plan(model, ftype="Q8_0")
        with pytest.raises(OutputError, match=r"exists; choose another name or pass `force=True`"):
            apex.quantize(model, plan, output)
    done = invoke("quantize", apex.demo_model(), "--type", "Q8_0", "-o", output, "--no-manifest")
    assert done.exit_code == 1
    assert "exists; choose another name or pass --force" in done.stderr
