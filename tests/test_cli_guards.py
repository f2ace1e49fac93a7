"""Before a verb begins: no option twice, none without effect, no output over an input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import apex_native as apex
from apex_native.cli.app import app
from apex_native.cli.eval_options import TextChoices
from apex_native.cli.outputs import guard_outputs
from apex_native.errors import OutputError
from cli_tools import invoke, write_experts, write_imatrix

# --- options given twice --------------------------------------------------------------------------


def single_options() -> Iterator[tuple[str, str]]:
    group: Any = typer.main.get_command(app)
    for verb, command in group.commands.items():
        for parameter in command.params:
            options = [name for name in parameter.opts if name.startswith("--")]
            if options and not parameter.multiple and not parameter.is_flag:
                yield verb, max(options, key=len)


@pytest.mark.parametrize(("verb", "option"), list(single_options()))
def test_an_option_with_one_value_may_not_be_given_twice(verb: str, option: str) -> None:
    done = invoke(*verb.split(), option, "1", f"{option}=2")
    assert done.exit_code == 2
    assert f"{option} was given 2 times and can have one value" in done.stderr


def test_a_short_and_a_long_name_are_one_option() -> None:
    done = invoke("quantize", "m.gguf", "-o", "a.gguf", "--output", "b.gguf")
    assert done.exit_code == 2
    assert "--output was given 2 times" in done.stderr


def test_contradicting_switches_are_refused_and_repeated_ones_are_not(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    assert invoke("plan", model, "--type", "Q8_0", "-q", "-q").exit_code == 0
    done = invoke("quantize", model, "--type", "Q8_0", "--check", "--no-check")
    assert done.exit_code == 2


def test_every_comparison_is_shown(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    done = invoke("plan", model, "--type", "Q8_0", "--compare", "Q4_K_M", "--compare", "Q6_K")
    assert done.exit_code == 0
    assert "Q4_K_M" in done.stdout
    assert "Q6_K" in done.stdout


def test_several_texts_are_joined(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f"text {name}\n")
    joined = TextChoices(text=[tmp_path / "a", tmp_path / "b"]).joined()
    assert not isinstance(joined, Path)
    assert joined is not None
    assert (joined.name, joined.content) == ("a + b", "text a\ntext b")


# --- options without effect -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("plan m.gguf --type Q8_0 --prior 16", "--prior has no effect without --imatrix"),
        ("plan m.gguf --type Q8_0 --semantics declared", "--semantics has no effect without"),
        ("plan m.gguf --type Q8_0 --force", "--force has no effect without -o"),
        ("quantize m.gguf --type Q8_0 --verify-gpu 0.1", "--verify-gpu has no effect without"),
        ("quantize m.gguf --type Q8_0 --parse-special", "without --calibration"),
        ("quantize m.gguf --type Q8_0 --calibration-chunks 3", "without --calibration"),
        ("quantize m.gguf --type Q8_0 --gpu-layers 3", "without --calibration"),
        ("imatrix --in-file a.gguf -c 256", "--ctx has no effect where no matrix is collected"),
        ("imatrix --show-statistics a.gguf --chunks 3", "where no matrix is collected"),
        ("imatrix --show-statistics a.gguf --format dat", "with --show-statistics"),
        ("eval m.gguf --hellaswag t.txt -c 256", "--ctx has no effect without a text"),
        ("eval m.gguf -f t.txt --tasks-limit 3", "--tasks-limit has no effect without a task"),
        ("eval m.gguf -f t.txt --two-pass", "--two-pass has no effect without --reference"),
        ("eval m.gguf -f t.txt --save-base b", "--save-base has no effect without --reference"),
        ("plan m.gguf --type-k q8_0", "--type-k has no effect without --fit or --gpu"),
        ("plan m.gguf --tier quality --ctx 99", "--ctx has no effect without --fit or --gpu"),
        ("plan m.gguf --on cpu", "--on has no effect without --fit or --gpu"),
        ("inspect m.gguf --type-v q8_0", "--type-v has no effect without --ctx"),
        ("inspect m.gguf --threads 2", "--threads has no effect without --stats"),
        ("search m.gguf -b 9MB --type-k q8_0", "--type-k has no effect without --fit"),
        ("search m.gguf -b 9MB --imatrix i --parse-special", "--parse-special has no effect with"),
        ("strategies m.gguf -b 9MB --ctx 99", "--ctx has no effect without --fit"),
    ],
)
def test_an_option_without_effect_is_refused(command: str, says: str) -> None:
    done = invoke(*command.split())
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_base_file_brings_its_text_and_context(tmp_path: Path) -> None:
    base = tmp_path / "base.kld"
    base.write_bytes(b"_logits_" + bytes(16))
    done = invoke("eval", "-r", base, "m.gguf", "-c", "256")
    assert done.exit_code == 2
    assert "--ctx has no effect where --reference is a base file" in done.stderr


# --- outputs --------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    matrix = write_imatrix(tmp_path / "i.gguf", n_layers=1)
    for name in ("t.txt", "r.json", "rules.txt"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "o.gguf.manifest.json").write_text("{}")
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    return {"M": model, "I": matrix, "L": link, "T": tmp_path}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("quantize M --type Q8_0 -o M", "--output"),
        ("quantize M --type Q8_0 -o L", "--output"),
        ("quantize M --type Q8_0 --imatrix I -o I", "--output"),
        ("quantize M --type Q8_0 --imatrix I --manifest I -o T/o.gguf", "--manifest"),
        ("quantize M --type Q8_0 --tensor-type-file T/o.gguf.manifest.json -o T/o.gguf", "-output"),
        ("plan M --type Q8_0 --imatrix I -o I", "--output"),
        ("plan M --like L -o L", "--output"),
        ("imatrix M -f T/t.txt -o M", "--output"),
        ("imatrix M -f T/t.txt -o T/x.gguf --coverage T/t.txt", "--coverage"),
        ("imatrix --in-file I -o I", "--output"),
        ("imatrix --show-statistics I --heatmap I", "--heatmap"),
        ("corpus M -o M", "--output"),
        ("eval -r M L -f T/t.txt --save-base M", "--save-base"),
        ("eval -r M L -f T/t.txt -o M", "--output"),
        ("eval M --hellaswag name=T/t.txt -o T/t.txt", "--output"),
        ("bench M --jsonl M", "--jsonl"),
        ("bench M --results M", "--results"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_no_output_is_an_input_even_with_force(
    command: str, option: str, force: bool, files: dict[str, Path]
) -> None:
    before = {path: path.read_bytes() for path in files["T"].iterdir()}
    words = ["/".join(str(files.get(part, part)) for part in word.split("/"))
             for word in command.replace("name=T/", f"name={files['T']}/").split()]  # fmt: skip
    done = invoke(*words, *(("--force",) if force and words[0] != "bench" else ()))
    assert done.exit_code == 1, done.stderr
    assert "is an input of this command" in done.stderr
    assert option in done.stderr
    assert {path: path.read_bytes() for path in files["T"].iterdir()} == before


def test_two_outputs_are_two_files(files: dict[str, Path]) -> None:
    place = files["T"] / "x.gguf"
    done = invoke("quantize", files["M"], "--type", "Q8_0", "-o", place, "--manifest", place)
    assert done.exit_code == 1
    assert "--output and --manifest would both write" in done.stderr


def test_every_shard_of_an_input_is_one(tmp_path: Path) -> None:
    shards = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for shard in shards:
        shard.touch()
    with pytest.raises(OutputError, match="is an input"):
        guard_outputs({"file": shards[0], "output": shards[1]})


@pytest.mark.parametrize(
    "arguments",
    [
        ("imatrix", "--show-statistics", "I", "--coverage", "T/r.json"),
        ("eval", "-r", "M", "L", "-f", "T/t.txt", "--save-base", "T/r.json"),
    ],
)
def test_what_exists_is_replaced_with_force_only(
    arguments: tuple[str, ...], files: dict[str, Path]
) -> None:
    words = ["/".join(str(files.get(part, part)) for part in word.split("/"))
             for word in arguments]  # fmt: skip
    done = invoke(*words)
    assert done.exit_code == 1
    assert "r.json exists; choose another name or pass --force" in done.stderr
    assert (files["T"] / "r.json").read_text() == "{}\n"


def test_json_lines_are_appended_to_nothing_else(files: dict[str, Path]) -> None:
    notes = files["T"] / "notes.txt"
    notes.write_text("not JSON\n")
    done = invoke("bench", apex.demo_model(), "-p", "8", "-n", "0", "-r", "1", "--jsonl", notes)
    assert done.exit_code == 1
    assert "is no file of JSON lines" in done.stderr
    assert notes.read_text() == "not JSON\n"


def test_a_device_is_no_input(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    for verb in (
        ("imatrix", model, "-f", "/dev/zero", "-o", tmp_path / "i.gguf"),
        ("quantize", model, "--type", "Q8_0", "--imatrix", "/dev/zero", "-o", tmp_path / "q.gguf"),
        ("report", "/dev/zero", "-o", tmp_path / "report"),
    ):
        done = invoke(*verb)
        assert done.exit_code == 1
        assert "/dev/zero is a device, expected a file; choose another" in done.stderr


def test_too_little_memory_for_a_row_is_a_sentence(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    done = invoke("quantize", model, "--type", "Q8_0", "--max-memory", "1K", "-o", tmp_path / "q")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("for the longest row; raise --max-memory")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
