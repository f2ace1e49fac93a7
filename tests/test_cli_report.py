"""``apex-native report``: files in, a folder out, mistakes in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli_tools import invoke
from results_data import TEXT, evaluation

ALL = evaluation(3, n_layers=4)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The evaluation in two files: a candidate was added later."""
    parts = (ALL.candidates[:2], ALL.candidates[2:])
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, candidates in zip(paths, parts, strict=True):
        replace(ALL, candidates=candidates, comparisons=()).save(path)
    return paths


def test_a_folder_with_everything(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "new" / "report"
    result = invoke("report", *files, "-o", folder, "--title", "Three *files*")
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in folder.iterdir()}
    text = (folder / "report.md").read_text("utf-8")
    assert text.startswith("# Three \\*files\\*\n")
    assert names == {
        *("report.md", "report.csv", "ppl_vs_size.png", "kld.png", "router_agreement.png"),
        *("accuracy.png", "size_vs_speed.png", "kld_vs_size.png"),
    }
    for name in names - {"report.md", "report.csv"}:
        assert text.count(f"]({name})") == 1
    for candidate in ALL.candidates:
        assert (
            candidate.name.removeprefix("Qwen3.5-35B-A3B-").removesuffix(".gguf") in result.stdout
        )
    assert "Noise floor (" in result.stdout
    assert result.stderr == ""


def test_one_json_document(tmp_path: Path, files: list[Path]) -> None:
    result = invoke("report", files[0], "-o", tmp_path / "r", "--json", "--format", "csv, md")
    document = json.loads(result.stdout)
    assert document["files"] == [str(tmp_path / "r" / f"report.{kind}") for kind in ("csv", "md")]
    assert document["candidates"] == [c.name for c in ALL.candidates[:2]]
    assert document["left_out"] == {}
    assert "![" not in (tmp_path / "r" / "report.md").read_text("utf-8")


def test_what_is_there_is_kept_without_force(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "report.md").write_text("mine")
    refused = invoke("report", *files, "-o", folder)
    assert refused.exit_code == 1
    assert "report.md exists; choose another folder or pass --force" in refused.stderr
    assert [path.name for path in folder.iterdir()] == ["report.md"]
    assert (folder / "report.md").read_text() == "mine"
    csv_only = invoke("report", *files, "-o", folder, "--format", "csv")
    assert csv_only.exit_code == 0, csv_only.stderr
    forced = invoke("report", *files, "-o", folder, "--format", "md", "--force")
    assert forced.exit_code == 0, forced.stderr
    assert (folder / "report.md").read_text("utf-8") != "mine"


def test_mistakes_are_one_sentence(tmp_path: Path, files: list[Path]) -> None:
    other = tmp_path / "other.json"
    replace(ALL, comparisons=(), data=replace(TEXT, ctx=512)).save(other)
    broken = tmp_path / "broken.json"
    broken.write_text(files[0].read_text()[:-100])
    folder = tmp_path / "r"
    cases = [
        ((files[0], other), 1, "data.ctx is 2048 in one file and 512 in another"),
        ((broken,), 1, "broken.json: no readable JSON"),
        ((tmp_path / "none.json",), 1, "none.json: No such file or directory; check the path"),
        ((*files, "--format", "md,pdf"), 2, "'pdf' is none of md, csv, png"),
        ((), 2, "RESULTS"),
    ]
    for args, code, sentence in cases:
        result = invoke("report", *args, "-o", folder)
        assert result.exit_code == code, result.stderr
        assert sentence in result.stderr
        assert result.stderr.startswith("error: ")
        assert "internal error" not in result.stderr
        assert not folder.exists()


def test_a_folder_that_cannot_be(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("report", files[0], "-o", tmp_path / "file")
    assert result.exit_code == 1
    assert "cannot make folder" in result.stderr
    assert "or choose another with -o" in result.stderr


WITHOUT_NATIVE_CORE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "apex_native._core":
            raise ImportError(f"{name} is blocked by the test")

sys.meta_path.insert(0, Blocked())
from apex_native.reports import write_report
from apex_native.results import Results
assert "matplotlib" not in sys.modules
assert "numpy" not in sys.modules
write_report(Results.load(sys.argv[1]), sys.argv[2], formats=("md", "csv"))
assert "matplotlib" not in sys.modules
assert "numpy" not in sys.modules
write_report(Results.load(sys.argv[1]), sys.argv[2])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_a_report_needs_no_native_core(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "r"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_NATIVE_CORE, str(files[0]), str(folder)],
        env={"PYTHONPATH": ":".join(sys.path), "MPLCONFIGDIR": str(tmp_path / "mpl")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (folder / "kld.png").exists()
