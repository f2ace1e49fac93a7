"""Mistakes on the command line that no option's type excludes: what is said of them, and when."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from apex_native.cli.report import _beside
from apex_native.demo import demo_model
from apex_native.errors import DataError
from apex_native.evaluation import ModelUnderTest
from apex_native.evaluation.model_under_test import names_of
from cli_tools import invoke, write_experts, write_imatrix


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a model, a matrix of it, a text."""
    write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    write_imatrix(tmp_path / "i.gguf", n_layers=1)
    (tmp_path / "t.txt").write_text("a text\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "imatrix m.gguf -f t.txt --threads 99999999999",
        "imatrix m.gguf -f t.txt --threads 513",
        "imatrix m.gguf -f t.txt --main-gpu 99999999999",
        "imatrix m.gguf -f t.txt --batch 99999999999",
        "imatrix m.gguf -f t.txt --ubatch 99999999999",
        "imatrix m.gguf -f t.txt --gpu-layers 99999999999",
        "inspect m.gguf --ctx 99999999999",
        "inspect m.gguf --ctx 2000000000",  # llama.cpp would keep 100 GB of notes on its cells
        "inspect m.gguf --stats --threads 99999999999",
        "plan m.gguf --fit 9GiB --ctx 99999999999",
        "search m.gguf --fit 9GiB --ctx 99999999999",
        "quantize m.gguf --type Q8_0 --threads 99999999999",
    ],
)
def test_numbers_beyond_reason_are_usage_errors(command: str, folder: Path) -> None:
    done = invoke(*command.split())
    assert done.exit_code == 2, done.stderr
    assert command.split()[-2] in done.stderr  # the option's name


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("plan m.gguf --tier quality,mini", "is more than one recipe"),
        ("plan m.gguf --tier all", "is more than one recipe"),
        ("quantize m.gguf --tier ,", "names no recipe"),
        ("sweep .", "is a folder, expected a sweep's .toml file"),
        ("sweep t.txt --resume --force", "--force starts again; leave one out"),
        ("imatrix m.gguf -f t.txt --resume --force", "--force starts again; leave one out"),
        ("corpus m.gguf --resume --force", "--force starts again; leave one out"),
        ("convert . --resume --force", "--force starts again; leave one out"),
        ("plan m.gguf --recipe t.txt", "neither a tier file (.toml) nor a saved plan (.json)"),
        ("plan m.gguf --tier nofile.toml", "tier file nofile.toml: No such file or directory"),
        ("plan m.gguf --type Q8_0 --tensor-type-file i.gguf", "i.gguf: no text"),
        ("plan m.gguf --type Q8_0 --fit 9GiB --mmproj m.gguf", "expected a multimodal projector"),
        ("plan m.gguf --like i.gguf", "has none of this model's tensors"),
        ("quantize m.gguf --plan t.txt", "t.txt: plan: not JSON"),
        ("plan m.gguf --gpu 'RTX -9GB'", "the memory of 'RTX -9GB' is not known"),
        ("search m.gguf -b 1MB,2MB -f t.txt -o i.gguf", "i.gguf is no folder"),
    ],
)
def test_what_cannot_be_meant_is_said(command: str, says: str, folder: Path) -> None:
    done = invoke(*shlex.split(command))
    assert done.exit_code in (1, 2)
    assert says in done.stderr
    assert "internal error" not in done.stderr


def test_a_trial_run_for_several_makes_no_folder(folder: Path) -> None:
    later = folder / "later"
    done = invoke("quantize", folder / "m.gguf", "--type", "Q8_0,Q4_0", "--dry-run", "-o", later)
    assert done.exit_code == 0, done.stderr
    assert not later.exists()


def test_search_takes_a_bare_hessian(folder: Path) -> None:
    # As its examples write it: the model is too small for the budget, which is found out later.
    done = invoke("search", folder / "m.gguf", "-b", "1", "-f", folder / "m.gguf", "--hessian")
    assert "requires an argument" not in done.stderr
    assert done.exit_code == 1


def test_two_outputs_of_a_collection_are_two_files(folder: Path) -> None:
    done = invoke("imatrix", "m.gguf", "-f", "t.txt", "-o", "y.gguf", "--hessian", "y.gguf")
    assert done.exit_code == 1
    assert "--output and --hessian would both write y.gguf" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--hessian i.gguf", "i.gguf: not a file of second moments"),
        ("--store t.txt", "t.txt is no store of probes"),
        ("--min-tg 1.1x:zz", "unknown file type 'zz'"),
    ],
)
def test_search_knows_before_it_calibrates(options: str, says: str, folder: Path) -> None:
    source = demo_model()
    done = invoke("search", source, "-b", "12MB", "-f", "t.txt", *options.split())
    assert done.exit_code == 1
    assert says in done.stderr
    assert not list(folder.glob("*.imatrix.gguf*"))


def test_a_recipe_is_not_overwritten(folder: Path) -> None:
    (folder / "out.recipe.toml").write_text("precious")
    command = ("search", demo_model(), "-b", "12MB", "-f", "t.txt", "--no-file", "-o", "out.gguf")
    done = invoke(*command)
    assert done.exit_code == 1
    assert "out.recipe.toml exists" in done.stderr


def test_values_without_flash_attention_are_plain(folder: Path) -> None:
    command = "eval m.gguf -f t.txt --type-v q4_0 --flash-attn off"
    done = invoke(*command.split())
    assert done.exit_code == 2
    assert "a V cache of q4_0 needs flash attention" in done.stderr


def test_one_file_twice_is_told_apart_by_number(folder: Path) -> None:
    models = [ModelUnderTest("m.gguf"), ModelUnderTest("m.gguf")]
    assert list(names_of(models)) == ["m", "m (2)"]


def test_an_empty_task_name_and_an_address_are_shown_as_typed(folder: Path) -> None:
    done = invoke("eval", "m.gguf", "--hellaswag", "x=")
    assert "'x=' names no file" in done.stderr
    done = invoke("inspect", "hf://x")
    assert "hf://x: no address of a model" in done.stderr


@pytest.mark.parametrize("text", ["no JSON", "[1]", "{}", '{"files": [], "layers": {}}'])
@pytest.mark.parametrize("option", ["--manifest", "--coverage"])
def test_a_page_says_what_is_no_manifest_and_no_coverage(
    option: str, text: str, folder: Path
) -> None:
    (folder / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: expected a (manifest|coverage), as"):
        _beside(
            Path("page.html"),
            [Path("x.json")] if option == "--manifest" else None,
            Path("x.json") if option == "--coverage" else None,
        )


def test_search_looks_for_room_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=11_999_999))
    done = invoke("search", demo_model(), "-b", "12MB", "-f", "t.txt", "-o", "new/out.gguf")
    assert done.exit_code == 1
    assert "its disk has 11,999,999 bytes free, expected 12,000,000 or more" in done.stderr
