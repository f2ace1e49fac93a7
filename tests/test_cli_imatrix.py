"""The verb imatrix, and quantize with a calibration: files, words, exits, kill -9."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.imatrix import Prior
from calibration_models import write_expert_model
from cli_tools import invoke, run, write_experts
from stopped_runs import CHECKPOINT_WRITTEN, run_stopped

CTX = ("--ctx", "32", "--threads", "2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_expert_model(tmp_path / "model.gguf")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(demo_text(1500, seed=2))
    return path


def test_collecting_prints_coverage_and_writes_reports(
    tmp_path: Path, model: Path, text: Path
) -> None:
    output, document = tmp_path / "m.gguf", tmp_path / "coverage.json"
    result = invoke("imatrix", model, "-f", text, "-o", output, *CTX, "--chunks", "5",
                    "--coverage", document, "--heatmap", tmp_path / "map.png")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "5 chunks of 32 tokens" in result.stdout
    assert "Gini" in result.stdout
    matrix = apex.load_imatrix(output)
    assert matrix.datasets == (str(text),)
    layers = json.loads(document.read_text())["layers"]
    entry = matrix.entries["blk.0.ffn_up_exps.weight"]
    assert layers[0]["tokens"] == entry.counts.astype(int).tolist()
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    again = invoke("imatrix", model, "-f", text, "-o", output, *CTX)
    assert again.exit_code == 1
    assert "exists; choose another name or pass --force" in again.stderr


def test_json_has_everything(tmp_path: Path, model: Path, text: Path) -> None:
    result = invoke("imatrix", model, "-f", text, "-o", tmp_path / "m.gguf", *CTX, "--json",
                    "--chunks", "3", "--scope", "upstream")  # fmt: skip
    found = json.loads(result.stdout)
    assert found["chunk_count"] == 3
    assert found["sha256"] == apex.load_imatrix(tmp_path / "m.gguf").sha256
    assert [m["tensor"] for m in found["missing"]] == ["token_embd.weight"]
    assert "warning: no data for token_embd.weight" in result.stderr
    shown = json.loads(invoke("imatrix", "--show-statistics", tmp_path / "m.gguf", "--json").stdout)
    assert len(shown["statistics"]) == found["entries"] == len(shown["statistics"])
    assert shown["coverage"] == found["coverage"]


def test_merging_and_the_older_format(tmp_path: Path, model: Path, text: Path) -> None:
    for i in (0, 4):
        invoke("imatrix", model, "-f", text, "-o", tmp_path / f"{i}.gguf", *CTX, "--chunks", "4",
               "--skip-chunks", str(i))  # fmt: skip
    both = invoke("imatrix", "--in-file", tmp_path / "0.gguf", "--in-file", tmp_path / "4.gguf",
                  "-o", tmp_path / "both.gguf")  # fmt: skip
    assert both.exit_code == 0, both.stderr
    assert apex.load_imatrix(tmp_path / "both.gguf").chunk_count == 8
    added = invoke("imatrix", model, "-f", text, "--in-file", tmp_path / "4.gguf", *CTX,
                   "--chunks", "4", "-o", tmp_path / "added.dat")  # fmt: skip
    assert added.exit_code == 0, added.stderr
    legacy = apex.load_imatrix(tmp_path / "added.dat")
    assert legacy.is_legacy
    assert legacy.chunk_count == 8
    assert not list(tmp_path.glob("*collected*"))


def test_a_second_pass_with_all_experts(tmp_path: Path, model: Path, text: Path) -> None:
    result = invoke("imatrix", model, "-f", text, "-o", tmp_path / "m.gguf", *CTX, "--all-experts")
    assert result.exit_code == 0, result.stderr
    entry = apex.load_imatrix(tmp_path / "m.gguf").entries["blk.0.ffn_down_exps.weight"]
    assert entry.all_experts is not None
    assert len(set(entry.all_experts[1])) == 1
    assert not list(tmp_path.glob("*.tmp.gguf"))


def test_how_the_collection_ended_is_said(tmp_path: Path, model: Path, text: Path) -> None:
    covered = invoke("imatrix", model, "-f", text, "-o", tmp_path / "a.gguf", *CTX,
                     "--min-expert-tokens", "5", "--batch", "32")  # fmt: skip
    assert "every expert has seen at least" in covered.stdout
    short = invoke("imatrix", model, "-f", text, "-o", tmp_path / "b.gguf", *CTX,
                   "--min-expert-tokens", "100000", "--max-chunks", "4")  # fmt: skip
    assert "saw fewer than the 100,000 tokens asked for" in short.stderr
    assert "ended after 4 chunks" in short.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give a MODEL and -f TEXT, or --in-file, or --show-statistics"),
        (("model.gguf",), "a collection takes a MODEL and a text"),
        (("-f", "text.txt"), "a collection takes a MODEL and a text"),
        (("m", "--show-statistics", "x"), "reads a matrix and makes none"),
        (("--prior", "some"), "no such option"),
    ],
)
def test_usage_errors(args: tuple[str, ...], message: str) -> None:
    result = invoke("imatrix", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_texts_that_cannot_be_used(tmp_path: Path, model: Path) -> None:
    cases = {
        "short": (b"one two three", "expected at least 512 for one chunk"),
        "empty": (b" \n", "there is no text in it"),
        "latin1": ("naïve".encode("latin1"), "byte 2 is no UTF-8"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        result = invoke("imatrix", model, "-f", path, "-o", tmp_path / "m.gguf")
        assert result.exit_code == 1
        assert message in result.stderr
    missing = invoke("imatrix", model, "-f", tmp_path / "nowhere")
    assert "cannot read the text" in missing.stderr


# --- quantize -----------------------------------------------------------------------------------


def test_tiers_that_need_a_matrix_stop_with_one_sentence(tmp_path: Path) -> None:
    for tier in ("i-quality", "i-balanced", "i-compact", "mini", "nano", "micro"):
        result = invoke("quantize", apex.demo_model(), "--tier", tier, "-o", tmp_path / "o.gguf")
        assert result.exit_code == 1
        lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        assert "needs an importance matrix and none is given" in lines[0]
        assert "--calibration" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_one_command_calibrates_and_quantizes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(demo_text(8000, seed=4))
    common = ("quantize", apex.demo_model(), "--tier", "i-compact", "--calibration", text,
              "--calibration-chunks", "2", "-o", tmp_path / "o.gguf", "--threads", "2")  # fmt: skip
    dry = invoke(*common, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.txt"]
    result = invoke(*common)
    assert result.exit_code == 0, result.stderr
    matrix = apex.load_imatrix(tmp_path / "o.imatrix.gguf")
    assert matrix.chunk_count == 2
    with apex.open_gguf(tmp_path / "o.gguf") as written:
        assert written.metadata["apex.imatrix_sha256"] == matrix.sha256
        assert written.metadata["quantize.imatrix.file"] == "o.imatrix.gguf"
    (tmp_path / "o.gguf").unlink()
    (tmp_path / "o.gguf.manifest.json").unlink()
    stamp = (tmp_path / "o.imatrix.gguf").stat().st_mtime_ns
    blocked = invoke(*common)
    assert blocked.exit_code == 1
    assert "o.imatrix.gguf exists" in blocked.stderr
    resumed = invoke(*common, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert (tmp_path / "o.imatrix.gguf").stat().st_mtime_ns == stamp


def test_a_plan_remembers_its_prior(tmp_path: Path) -> None:
    base = ("--tier", "i-compact", "--imatrix", apex.demo_imatrix(), "--prior", "7")
    planned = invoke("plan", apex.demo_model(), *base, "-o", tmp_path / "plan.json")
    assert planned.exit_code == 0, planned.stderr
    done = invoke("quantize", apex.demo_model(), "--plan", tmp_path / "plan.json",
                  "--imatrix", apex.demo_imatrix(), "-o", tmp_path / "o.gguf",
                  "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["imatrix_prior"] == str(Prior(7.0))


def test_calibration_contradicts_a_matrix(tmp_path: Path, text: Path) -> None:
    result = invoke("quantize", apex.demo_model(), "--tier", "mini", "--calibration", text,
                    "--imatrix", apex.demo_imatrix())  # fmt: skip
    assert result.exit_code == 2
    assert "leave out --imatrix" in result.stderr


def test_a_matrix_of_another_model_is_named(tmp_path: Path, model: Path, text: Path) -> None:
    invoke("imatrix", model, "-f", text, "-o", tmp_path / "m.gguf", *CTX)
    other = write_experts(tmp_path / "other.gguf", n_layers=2, rows=64)
    result = invoke("quantize", other, "--type", "IQ2_XXS", "--imatrix", tmp_path / "m.gguf",
                    "-o", tmp_path / "o.gguf")  # fmt: skip
    assert result.exit_code == 1
    assert "blk.0.ffn" in result.stderr
    assert "needs an importance matrix; the given one" in result.stderr


# --- stops --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_process_goes_on_to_the_same_bytes(tmp_path: Path, how: signal.Signals) -> None:
    text = tmp_path / "text.txt"
    text.write_text(demo_text(40_000, seed=8))
    common = ("imatrix", apex.demo_model(), "-f", text, "--ctx", "64", "--batch", "64",
              "--ubatch", "64", "--chunks", "60", "--threads", "2",
              "--checkpoint-every", "1")  # fmt: skip
    whole = run(*common, "-o", tmp_path / "whole.gguf")
    assert whole.returncode == 0, whole.stderr
    output, checkpoint = tmp_path / "m.gguf", tmp_path / "m.gguf.checkpoint"
    stopped = run_stopped(CHECKPOINT_WRITTEN, *common, "-o", output, how=how)
    if how is signal.SIGINT:
        assert stopped.returncode == 130
        assert "of 60 chunks are done; go on with --resume" in stopped.stderr
    else:
        assert stopped.returncode == -how
    assert checkpoint.exists()
    assert not output.exists()
    resumed = run(*common, "-o", output, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not checkpoint.exists()
