"""`bench` and `bench kernels` as users run them: tables, files, mistakes, Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo import demo_model
from apex_native.evaluation.speed import SpeedSettings, measure_speed
from apex_native.results import Results
from calibration_models import expert_weights, write_expert_model
from cli_tools import invoke, start

QUICK_MODEL = ("-p", "16", "-n", "2", "-r", "2", "-t", "1")
QUICK_KERNELS = ("-r", "2", "--sample-seconds", "0.001", "--working-set", "1M", "-t", "1")


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_table_lines_and_results(tmp_path: Path) -> None:
    other = Path(shutil.copy(demo_model(), tmp_path / "other.gguf"))
    jsonl, results = tmp_path / "speed.jsonl", tmp_path / "speed.json"
    args = ("bench", demo_model(), other, *QUICK_MODEL, "-pg", "8,2", "--jsonl", jsonl)
    done = invoke(*args, "--results", results)
    assert done.exit_code == 0, done.stderr
    for word in ("pp16", "tg2", "pp8+tg2", "other", "tokens/s", "f16, f16"):
        assert word in done.stdout
    lines = lines_of(jsonl)
    assert [line["test"] for line in lines] == ["pp16", "tg2", "pp8+tg2"] * 2
    assert all(len(line["samples"]) == 2 for line in lines)  # type: ignore[arg-type]
    candidates = Results.load(results).candidates
    assert [candidate.name for candidate in candidates] == [demo_model().stem, "other"]
    assert candidates[0].fingerprint == candidates[1].fingerprint
    assert [[test.test for test in c.speed] for c in candidates] == [["pp16", "tg2", "pp8+tg2"]] * 2
    assert invoke(*args, "--quiet").exit_code == 0
    assert lines_of(jsonl)[:6] == lines
    assert len(lines_of(jsonl)) == 12


def test_json_document() -> None:
    done = invoke("bench", demo_model(), *QUICK_MODEL, "--type-k", "f16,q8_0", "--json")
    assert done.exit_code == 0, done.stderr
    tests = json.loads(done.stdout)["tests"]
    assert [(t["settings"]["type_k"], t["test"]) for t in tests] == [
        ("f16", "pp16"),
        ("f16", "tg2"),
        ("q8_0", "pp16"),
        ("q8_0", "tg2"),
    ]


def test_weights_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    weights = expert_weights()
    weights["blk.0.ffn_down_exps.weight"][:] = np.nan
    broken = write_expert_model(tmp_path / "broken.gguf", weights)
    done = invoke("bench", broken, "-p", "8", "-n", "2", "-r", "1", "-t", "1", "--json")
    assert done.exit_code == 0, done.stderr
    assert "broken: computes logits that are not finite" in " ".join(done.stderr.split())
    assert [test["is_finite"] for test in json.loads(done.stdout)["tests"]] == [False, False]
    sound = write_expert_model(tmp_path / "sound.gguf")
    assert "finite" not in invoke("bench", sound, *QUICK_MODEL).output


def test_flash_attention_is_part_of_a_tests_settings(tmp_path: Path) -> None:
    results = tmp_path / "speed.json"
    done = invoke("bench", demo_model(), *QUICK_MODEL, "-fa", "on,off", "--results", results)
    assert done.exit_code == 0, done.stderr
    (candidate,) = Results.load(results).candidates
    assert [(t.flash_attn, t.test) for t in candidate.speed] == [
        *(("on", "pp16"), ("on", "tg2")),
        *(("off", "pp16"), ("off", "tg2")),
    ]
    done = invoke("bench", demo_model(), "-fa", "maybe")
    assert (done.exit_code, "expected one of auto, on, off, found 'maybe'" in done.stderr) == (
        2,
        True,
    )
    done = invoke("bench", demo_model(), "-fa", "on,off", "--type-v", "q8_0")
    assert (done.exit_code, "q8_0 needs flash attention" in done.stderr) == (2, True)


def test_flash_attention_reaches_llama_cpp() -> None:
    with apex.load_model(demo_model(), n_threads=1) as model:
        test = SpeedSettings(1, n_prompt=4, type_v=apex.GgmlType.Q8_0, repetitions=1)
        assert measure_speed(model, test).samples_ns  # auto: on
        with pytest.raises(apex.ModelError, match="V cache"):
            measure_speed(model, replace(test, flash_attn="off"))


def test_kernels_table_lines_and_plot(tmp_path: Path) -> None:
    jsonl, png = tmp_path / "kernels.jsonl", tmp_path / "kernels.png"
    args = ("bench", "kernels", "--types", "Q4_K,iq4_nl", *QUICK_KERNELS)
    done = invoke(*args, "--jsonl", jsonl, "--png", png)
    assert done.exit_code == 0, done.stderr
    for word in ("1 thread: memory is copied at", "Q4_K", "IQ4_NL", "Text generation on 1 thread"):
        assert word in done.stdout
    wanted = ["copy", "read", *["to_float", "vec_dot", "quantize"] * 2]
    assert [line["operation"] for line in lines_of(jsonl)] == wanted
    assert png.read_bytes().startswith(b"\x89PNG")
    again = invoke(*args, "--png", png)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    document = json.loads(invoke(*args, "--json").stdout)
    assert [row["operation"] for row in document["kernels"]] == wanted
    assert document["advice"]


USAGE = [
    ("bench DEMO -p x", "expected a whole number of at least 0, found 'x'"),
    ("bench DEMO -p -5", "expected a whole number of at least 0, found '-5'"),
    ("bench DEMO -t 0", "--threads: expected a whole number of at least 1"),
    ("bench DEMO -t 100000", "n_threads: expected 1 to 512, found 100000"),
    ("bench DEMO -p 0 -n 0", "there is nothing to measure"),
    ("bench DEMO -pg 5", "is no pair; write it like 512,128"),
    ("bench DEMO -b 0", "-b: expected a whole number of at least 1"),
    ("bench DEMO -r 0", "--repetitions"),
    ("bench DEMO --type-k q9_9", "unknown ggml type 'q9_9'"),
    ("bench DEMO --type-k q4_k", "a KV cache cannot have type q4_K"),
    ("bench DEMO -p 2147483647", "longer than the model's context"),
    ("bench DEMO -p 99999999999", "expected a whole number"),
    ("bench kernels --types Q9", "unknown ggml type 'Q9'"),
    ("bench kernels --types Q8_K", "Q8_K is no type that weights are stored in"),
    ("bench kernels -t 0", "--threads: expected a whole number of at least 1"),
    ("bench kernels --device abacus", "expected cpu or cuda"),
    ("bench kernels --working-set 900000T", "more than half of the"),
    ("bench kernels --working-set lots", "write it like 2G"),
    ("bench", "Missing argument"),
]


@pytest.mark.parametrize(("args", "says"), USAGE)
def test_wrong_usage_is_exit_code_2(args: str, says: str, tmp_path: Path) -> None:
    words = [str(demo_model()) if word == "DEMO" else word for word in args.split()]
    done = invoke(*words, "--jsonl", tmp_path / "lines.jsonl")
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_failures_say_what_to_do(tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("precious")
    for args, says in (
        (("bench", tmp_path / "nope.gguf"), "nope.gguf"),
        (("bench", demo_model(), "--results", taken), "--force"),
        (("bench", demo_model(), "--jsonl", tmp_path / "no" / "x"), "choose another place"),
    ):
        done = invoke(*args)
        assert done.exit_code == 1, done.stderr
        assert says in done.stderr
        assert "; " in done.stderr.splitlines()[0]
    assert taken.read_text() == "precious"


@pytest.mark.skipif(core.build_info()["cuda"], reason="this build has CUDA")
def test_cuda_needs_a_build() -> None:
    done = invoke("bench", "kernels", "--device", "cuda")
    assert done.exit_code == 2
    assert "needs a CUDA build; reinstall with" in done.stderr


def interrupted(*args: str | Path, jsonl: Path, n_lines: int) -> tuple[int, str, str]:
    """Exit code and streams of a command that got Ctrl-C after that many lines."""
    process = start(*args, "--jsonl", jsonl)
    deadline = time.monotonic() + 60
    while not (jsonl.exists() and jsonl.read_text().count("\n") >= n_lines):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # well into the next measurement
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_keeps_what_was_finished(tmp_path: Path) -> None:
    jsonl = tmp_path / "speed.jsonl"
    # A second test that takes minutes, in decodes of a second or more.
    args = ("bench", demo_model(), "-p", "16,4096", "-n", "0", "-r", "20", "-t", "1")
    code, out, err = interrupted(*args, "-ub", "4096", jsonl=jsonl, n_lines=1)
    assert code == 130
    assert "interrupted: the 1 finished tests are in" in err
    assert "pp16" in out
    assert [line["test"] for line in lines_of(jsonl)] == ["pp16"]


def test_ctrl_c_stops_kernels(tmp_path: Path) -> None:
    jsonl = tmp_path / "kernels.jsonl"
    args = ("bench", "kernels", "--sample-seconds", "30", "-r", "1", "-t", "1")
    code, _, err = interrupted(*args, jsonl=jsonl, n_lines=0)
    assert code == 130
    assert "interrupted" in err
