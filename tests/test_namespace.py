"""What `import apex_native` offers: every name is there, is shown, and hides no module."""

from __future__ import annotations

import rlcompleter
import subprocess
import sys
from pathlib import Path

import pytest

import apex_native


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_exists() -> None:
    assert len(set(apex_native.__all__)) == len(apex_native.__all__)
    for name in apex_native.__all__:
        assert getattr(apex_native, name) is not None, name


def test_a_star_brings_all_of_them() -> None:
    shown = in_a_new_process("from apex_native import *; print(*dir())").split()
    assert set(apex_native.__all__) <= set(shown)
    assert {"plan", "results", "annotations", "Any"}.isdisjoint(shown)


def test_dir_shows_what_is_lazy_and_no_helpers() -> None:
    shown = in_a_new_process("import apex_native; print(*dir(apex_native))").split()
    public = {name for name in shown if not name.startswith("__")}
    assert set(apex_native.__all__) <= public
    assert public - set(apex_native.__all__) == {
        *("allocation", "classification", "conversion", "corpus", "engine", "evaluation"),
        *("imatrix", "plan", "quantization", "reports", "results", "sweeps", "types"),
    }
    assert {"importlib", "annotations", "Any", "TYPE_CHECKING", "api"}.isdisjoint(shown)


def test_names_are_completed() -> None:
    completer = rlcompleter.Completer({"apex": apex_native})
    found = [completer.complete("apex.load_", i) for i in range(4)]
    names = ["apex.load_imatrix", "apex.load_model", "apex.load_recipe"]
    assert [text and text.rstrip("()") for text in found] == [*names, None]


STAGES = (
    *("classification", "conversion", "plan", "corpus", "imatrix"),
    *("quantization", "evaluation", "reports"),
)


@pytest.mark.parametrize("first", ["", "import apex_native; apex_native.evaluate; "])
@pytest.mark.parametrize("stage", [*STAGES, "evaluation.tasks", "evaluation.speed", "results"])
def test_stages_are_modules_whatever_was_imported_before(stage: str, first: str) -> None:
    code = f"{first}import apex_native.{stage} as stage; print(stage.__name__, stage.__all__ != [])"
    assert in_a_new_process(code) == f"apex_native.{stage} True\n"


def test_stages_are_there_without_an_import_of_their_own() -> None:
    code = "import apex_native; print(apex_native.evaluation.tasks.TaskKind.HELLASWAG)"
    assert in_a_new_process(code) == "hellaswag\n"


def test_no_name_in_a_stage_hides_a_module_of_it() -> None:
    package = Path(apex_native.__file__).parent
    for init in package.rglob("__init__.py"):
        if "_upstream" in init.parts:  # llama.cpp's converter, which needs torch
            continue
        module = ".".join(["apex_native", *init.parent.relative_to(package).parts])
        code = f"import {module} as m; print(*getattr(m, '__all__', ()))"
        names = set(in_a_new_process(code).split())
        files = {path.stem for path in init.parent.glob("*.py")}
        folders = {path.parent.name for path in init.parent.glob("*/__init__.py")}
        assert names & (files | folders) <= {"errors"}, module


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, apex_native; print('numpy' in sys.modules, 'apex_native._core' in sys.modules)"
    )
    assert in_a_new_process(code) == "False False\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        apex_native.quantise  # noqa: B018
