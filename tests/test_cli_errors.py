"""Bad input: one sentence that ends with what to do, the right exit code, nothing on stdout."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path

import pytest

from apex_native.cli.errors import CtrlCError, report
from apex_native.demo import demo_model
from apex_native.plan import load_tier, tier_names
from cli_tools import invoke, run, write_experts, write_header, write_imatrix
from gguf_builder import ValueType, f32_tensor, pair, write_gguf


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "text.gguf").write_text("this is no model")
    (tmp_path / "taken.gguf").write_text("precious")
    (tmp_path / "taken.json").write_text("precious")
    (tmp_path / "bad.toml").write_text("name = 3")
    (tmp_path / "bad_plan.json").write_text("{")
    (tmp_path / "rules.txt").write_text("attn")
    model = write_experts(tmp_path / "model.gguf", n_layers=2, rows=32)
    write_imatrix(tmp_path / "i.gguf", n_layers=1)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-1000])
    write_header(tmp_path / "header.gguf", n_layers=2, rows=32)
    assert invoke("quantize", model, "--type", "Q8_0", "-o", tmp_path / "q8.gguf").exit_code == 0
    return {"T": str(tmp_path), "DEMO": str(demo_model())}


USAGE = [
    ("frobnicate", "no such verb: frobnicate; the verbs are inspect, plan"),
    ("quantise DEMO", "did you mean quantize?"),
    ("plan DEMO --teir quality", "did you mean --tier? see"),
    ("quantize DEMO out.gguf --type Q8_0", "(out.gguf); what a verb writes is named with -o; see"),
    ("corpus DEMO --model DEMO", "no such option: --model; see"),
    ("--bogus", "no such option: --bogus"),
    ("inspect", "Missing argument 'FILE'"),
    ("quantize DEMO", "give exactly one of --tier, --type, --like"),
    ("plan DEMO --tier quality --type Q8_0", "found --tier and --type"),
    ("plan DEMO --tier qualty", "unknown tier 'qualty'; did you mean quality"),
    ("plan DEMO --tier T/bad.toml", "bad.toml"),
    ("plan DEMO --type Q4_KM", "did you mean Q4_K_M"),
    ("plan DEMO --type Q8_0 --edges 3", "belongs to a --tier"),
    ("plan DEMO --tier quality --edges 1,2,3,4", "one to three layer counts"),
    ("plan DEMO --tier quality --edges -1", "one to three layer counts"),
    ("plan DEMO --tier quality --semantics literal", "'published', 'declared'"),
    ("plan DEMO --tier quality --tensor-type attn", "form REGEX=TYPE"),
    ("plan DEMO --tier quality --tensor-type attn=q9", "unknown ggml type 'q9'"),
    ("plan DEMO --tier quality --tensor-type (=q8_0", "--tensor-type"),
    ("plan DEMO --tier quality --tensor-type-file T/rules.txt", "form REGEX=TYPE"),
    ("plan DEMO --tier quality --output-tensor-type q4k", "did you mean Q4_K"),
    ("plan DEMO --tier quality --compare Q99", "--compare"),
    ("quantize DEMO --tier quality --threads 0", "--threads"),
    ("quantize DEMO --tier quality --max-memory lots", "write it like 2G"),
    ("quantize DEMO --tier quality --split-max-size 0", "at least one byte"),
    ("quantize DEMO --plan T/bad_plan.json --type Q8_0", "leave out --type"),
    ("quantize DEMO --tier quality --manifest a --no-manifest", "contradicts --no-manifest"),
    ("quantize DEMO --tier quality --resume --force", "leave one out"),
]

FAILURES = [
    ("inspect T/nope.gguf", "No such file or directory"),
    ("inspect T", "no config.json"),
    ("imatrix DEMO -f DEMO -o T/i2.gguf", "is a GGUF file, expected a text; were the two"),
    ("eval DEMO -f DEMO", "is a GGUF file, expected a text; were the two files swapped?"),
    ("inspect T/text.gguf", "expected a GGUF file"),
    ("quantize T/cut.gguf --type Q8_0 -o T/o.gguf", "cut.gguf: the file is truncated"),
    ("inspect T/header.gguf --stats", "header"),
    ("plan DEMO --tier quality --imatrix DEMO", "not an importance matrix"),
    ("plan DEMO --tier quality --imatrix T/nope", "such file or directory; check the path"),
    ("plan DEMO --tier quality --tensor-type-file T/nope", "No such file or directory"),
    ("plan DEMO --tier quality -o T/taken.json", "pass --force"),
    ("plan DEMO --tier quality -o T/no/plan.json", "create it first"),
    ("plan DEMO --type Q8_0 --tensor-type nothing=q4_0 --strict", "matches no tensor"),
    ("plan DEMO --tier mini --strict", "has 1 finding; settle what follows or leave out --strict:"),
    ("plan DEMO --like T/text.gguf", "expected a GGUF file"),
    ("quantize DEMO --tier mini -o T/o.gguf", "pass one with --imatrix"),
    ("quantize T/model.gguf --type IQ2_XS --imatrix T/i.gguf -o T/o.gguf", "has no entry"),
    ("quantize DEMO --type Q8_0 -o T/taken.gguf", "taken.gguf exists"),
    ("quantize DEMO --type Q8_0 -o T/o.gguf --manifest T/taken.json", "taken.json exists"),
    ("quantize T/model.gguf --type Q8_0 -o T/model.gguf --force", "is an input of this command"),
    ("quantize DEMO --type Q8_0 -o T/no/o.gguf", "create it first"),
    ("quantize T/header.gguf --type Q8_0 -o T/o.gguf", "header only"),
    ("quantize T/q8.gguf --type Q4_0 -o T/o.gguf", "--allow-requantize"),
    ("quantize DEMO --like DEMO", "name the output with -o"),
    ("quantize DEMO --plan T/bad_plan.json -o T/o.gguf", "not JSON"),
    ("quantize DEMO --plan T/nope.json -o T/o.gguf", "cannot read plan"),
]


def check(args: str, places: dict[str, str], code: int, says: str) -> None:
    words = [
        "/".join(places.get(part, part) for part in word.split("/")) for word in args.split(" ")
    ]
    folder = Path(places["T"])
    before = sorted(path.name for path in folder.iterdir())
    result = invoke(*words)
    assert result.exit_code == code, result.stderr
    assert says in result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    lines = [line for line in lines if not line.startswith("warning: ")]
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.stderr
    # What to do comes after a semicolon or is asked.
    assert "; " in lines[0] or "? " in lines[0] or lines[0].endswith(":")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "taken.gguf").read_text() == "precious"
    assert (folder / "taken.json").read_text() == "precious"


@pytest.mark.parametrize(("args", "says"), USAGE)
def test_wrong_usage_is_exit_code_2(args: str, says: str, places: dict[str, str]) -> None:
    check(args, places, 2, says)


@pytest.mark.parametrize(("args", "says"), FAILURES)
def test_a_failure_with_a_reason_is_exit_code_1(
    args: str, says: str, places: dict[str, str]
) -> None:
    check(args, places, 1, says)


def test_a_mistake_of_ours_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    # By import, for `apex_native.classification` is the function of that name.
    stage = importlib.import_module("apex_native.classification")
    monkeypatch.setattr(stage, "classify_tensors", broken)
    result = invoke("inspect", demo_model())
    assert result.exit_code == 1
    assert "internal error: ZeroDivisionError: a bug" in result.stderr
    assert "APEX_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = run("inspect", "/nowhere/model.gguf", APEX_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "error: cannot open" in result.stderr
    without = run("inspect", "/nowhere/model.gguf")
    assert "Traceback" not in without.stderr
    assert "APEX_DEBUG" not in without.stderr  # the message says it all


def test_llama_cpps_own_lines_are_for_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "m.gguf"
    pairs = [
        pair("general.architecture", ValueType.STRING, "notyetknown"),
        pair("notyetknown.block_count", ValueType.U32, 1),
    ]
    write_gguf(broken, [f32_tensor("token_embd.weight", [[1.0] * 4] * 3)], pairs)
    command = ("eval", broken, "--text", __file__)
    said = run(*command).stderr
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    assert "Traceback" in run(*command, APEX_DEBUG="1").stderr


def test_what_several_runs_left_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    stop = KeyboardInterrupt()
    for left in ("2 of 9 tensors are done", "2 of 9 tensors are done", "3 of 9 tensors are done"):
        stop.add_note(left)
    report(CtrlCError(stop))
    said = capsys.readouterr().err
    assert said == "error: interrupted: 2 of 9 tensors are done; 3 of 9 tensors are done\n"


def test_built_in_tiers_and_recipes_can_be_listed_and_printed(tmp_path: Path) -> None:
    for verb, name, other in (("tiers", "mini", "quality"), ("recipes", "diverse", "code")):
        listed = invoke(verb)
        assert listed.exit_code == 0
        assert {name, other} <= {line.split()[0] for line in listed.stdout.splitlines()}
        printed = invoke(verb, name).stdout
        assert tomllib.loads(printed)["name"] == name
    own = tmp_path / "own.toml"
    own.write_text(invoke("tiers", "mini-q3").stdout, encoding="utf-8")
    as_json = json.loads(invoke("tiers", "mini-q3", "--json").stdout)
    assert as_json == tomllib.loads(own.read_text("utf-8"))
    assert load_tier(str(own)).rules == load_tier("mini").rules
    assert "known: balanced, i-balanced, compact" in invoke("tiers", "zzz").stderr


def test_there_is_completion_for_shells() -> None:
    shown = run("--show-completion", "bash")
    assert "apex" in shown.stdout + shown.stderr
    assert "--install-completion" in invoke("--help").stdout


def test_help_shows_verbs_and_examples() -> None:
    for args in (["--help"], []):
        result = invoke(*args)
        assert result.exit_code == 0
        for verb in ("inspect", "plan", "quantize", "demo", "doctor"):
            assert f"\n  {verb} " in result.stdout
            assert "\n    apex-native " in invoke(verb, "--help").stdout


def test_help_of_quantize_names_every_option() -> None:
    words = set(invoke("quantize", "--help").stdout.replace("/", " ").replace(",", " ").split())
    options = (
        "--tier --type --like --plan --semantics --edges --tensor-type --tensor-type-file "
        "--output-tensor-type --token-embedding-type --leave-output-tensor --pure --imatrix "
        "--strict -o --output --threads --max-memory --split-max-size --allow-requantize "
        "--resume --force --dry-run --manifest --no-manifest --check --no-check --json --quiet"
    )
    assert set(options.split()) <= words


def test_help_names_every_tier() -> None:
    text = " ".join(invoke("plan", "--help").stdout.split())
    for name in tier_names():
        assert name in text


def test_hostile_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    from gguf_builder import ValueType, f32_tensor, pair, write_gguf

    pairs = [pair("general.name", ValueType.STRING, "\x1b[2Jgone\nsecond line")]
    path = write_gguf(tmp_path / "m.gguf", [f32_tensor("\x1b[31mred", [[0.0] * 32])], pairs)
    result = invoke("inspect", path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout + result.stderr
    assert "\\x1b[2Jgone\\nsecond line" in result.stdout
    explained = invoke("plan", path, "--type", "F16", "--explain")
    assert "\x1b" not in explained.stdout + explained.stderr
    assert "\\x1b[31mred" in explained.stdout
