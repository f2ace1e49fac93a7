"""``apex-native eval`` as users meet it: tables, JSON, files that grow, refusals in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.evaluation.tasks.hellaswag import format_hellaswag
from apex_native.results import Results
from cli_tools import invoke, run
from stopped_runs import CHUNK_SCORED, run_stopped
from task_files import hellaswag_items

CTX = 128
CHUNKS = ("--ctx", str(CTX), "--chunks", "4", "--threads", "2")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(demo_text(12_000, seed=6))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo model in 8 bits and in about 3: nobody can mistake one for the other."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / "q8.gguf", folder / "q3.gguf"]
    with apex.open_gguf(apex.demo_model()) as source:
        for path, ftype in zip(paths, ("Q8_0", "Q3_K_S"), strict=True):
            apex.quantize(source, apex.make_plan(source, ftype=ftype), path)
    return paths


def document(*args: str | Path) -> dict[str, Any]:
    result = invoke("eval", *args, "--json")
    assert result.exit_code == 0, result.stderr
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_the_worked_example(models: list[Path], text: Path) -> None:
    result = invoke("eval", "-r", apex.demo_model(), *models, "-f", text, "--ctx", str(CTX),
                    "--chunks", "12")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    heading = next(line for line in lines if line.startswith("Quantization"))
    assert re.search(r"PPL +KLD mean +KLD max +KLD 99\.9 %", heading)
    rows = [next(line for line in lines if line.startswith(path.stem)) for path in models]
    for row, path in zip(rows, models, strict=True):
        assert f"{path.stat().st_size / 2**30:.3g}" in row
    assert "text.txt, context 128, 12 chunks" in result.stdout
    assert "Noise floor" in result.stdout
    title = lines.index("KLD mean, lower is better: each model against the next smaller one")
    assert re.match(r"q8 +better +q3 +-0\.\d+ +-0\.\d+ to -0\.\d+$", lines[title + 2])


def test_without_verdicts_there_is_a_sentence_and_no_table(models: list[Path], text: Path) -> None:
    result = invoke("eval", "-r", apex.demo_model(), *models, "-f", text, *CHUNKS)
    assert result.stdout.count("No verdict: an interval needs at least 5 chunks, found 4.") == 1
    assert "next smaller" not in result.stdout


def test_json_is_a_results_file(models: list[Path], text: Path, tmp_path: Path) -> None:
    found = document("-r", apex.demo_model(), *models, "-f", text, *CHUNKS)
    assert [candidate["name"] for candidate in found["candidates"]] == ["q8", "q3"]
    for candidate, path in zip(found["candidates"], models, strict=True):
        assert candidate["bytes"] == path.stat().st_size
        keys = {"ppl", "ppl_se", "kld_mean", "kld_se", "kld_max", "kld_p999", "same_top"}
        assert all(isinstance(candidate[key], float) for key in keys)
    assert found["candidates"][0]["kld_mean"] < found["candidates"][1]["kld_mean"]
    out = tmp_path / "found.json"
    out.write_text(json.dumps(found))
    assert Results.load(out).to_dict() == found


def test_a_file_grows_and_nothing_is_computed_twice(
    models: list[Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eval.json"
    first = document("-r", apex.demo_model(), models[0], "-f", text, *CHUNKS, "-o", out)
    assert json.loads(out.read_text()) == first
    both = document("-r", apex.demo_model(), *models, "-f", text, *CHUNKS, "-o", out)
    assert both["candidates"][0] == first["candidates"][0]
    assert [candidate["name"] for candidate in both["candidates"]] == ["q8", "q3"]
    alone = document("-r", apex.demo_model(), *models, "-f", text, *CHUNKS)
    assert both["candidates"] == alone["candidates"]
    report = invoke("report", out, "--output", tmp_path / "report")
    assert report.exit_code == 0, report.stderr
    assert list((tmp_path / "report").glob("*.png"))


def test_without_a_reference_there_is_perplexity_alone(models: list[Path], text: Path) -> None:
    found = document(models[0], "-f", text, *CHUNKS)
    (candidate,) = found["candidates"]
    assert candidate["ppl"] > 1
    assert candidate.get("kld_mean") is None
    with_reference = document("-r", apex.demo_model(), models[0], "-f", text, *CHUNKS)
    assert candidate["ppl"] == with_reference["candidates"][0]["ppl"]


def test_a_base_file_stands_for_the_reference(
    models: list[Path], text: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.kld"
    direct = document(
        "-r", apex.demo_model(), models[1], "-f", text, *CHUNKS, "--save-base", base
    )  # fmt: skip
    assert base.stat().st_size > 4 * (CTX // 2 - 1) * 2 * 4096
    read = document("-r", base, models[1], "--threads", "2")
    ours, coded = direct["candidates"][0], read["candidates"][0]
    assert coded["ppl"] == ours["ppl"]
    # A code is up to 16 / 65535 nats wide, of each of two log-probabilities.
    assert coded["kld_mean"] == pytest.approx(ours["kld_mean"], abs=2 * 16 / 65535)


def test_tasks_stand_beside_the_text(models: list[Path], text: Path, tmp_path: Path) -> None:
    items = tmp_path / "hellaswag.txt"
    items.write_text(format_hellaswag(hellaswag_items(40)))
    out = tmp_path / "eval.json"
    found = document(
        "-r", apex.demo_model(), models[0], "-f", text, *CHUNKS, "--hellaswag", items, "-o", out
    )  # fmt: skip
    assert json.loads(out.read_text()) == found
    (score,) = found["candidates"][0]["tasks"]
    assert score["n"] == 40
    assert 0 <= score["low"] <= score["score"] <= score["high"] <= 1
    shown = invoke("eval", "-r", apex.demo_model(), models[0], "--hellaswag", items)
    assert shown.exit_code == 0, shown.stderr
    assert "hellaswag" in shown.stdout.lower()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("MODEL",), 2, "--text"),
        (("--text", "TEXT"), 2, "name a model"),
        (("MODEL", "-f", "SHORT"), 1, "tokens"),
        (("MODEL", "-f", "TEXT", "--ctx", "1000000"), 1, "longer than"),
        (("MODEL", "-f", "nowhere.txt"), 1, "nowhere.txt"),
        (("nowhere.gguf", "-f", "TEXT"), 1, "nowhere.gguf"),
        (("MODEL", "-f", "TEXT", "--gpu-layers", "-1"), 1, "no GPU"),
        (("MODEL", "--hellaswag", "SHORT"), 1, "expected 6 a task"),
        (("-r", "SHORT", "MODEL", "-f", "TEXT"), 1, "SHORT"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(
    arguments: tuple[str, ...], code: int, says: str, text: Path, tmp_path: Path
) -> None:
    if "--gpu-layers" in arguments and core.build_info()["cuda"]:
        pytest.skip("this build may have a GPU")
    short = tmp_path / "SHORT"
    short.write_text("one two three")
    named = {"MODEL": apex.demo_model(), "TEXT": text, "SHORT": short}
    done = run("eval", *(named.get(argument, argument) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert says.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_questions_without_an_output_keep_unfinished_scores_apart(
    models: list[Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one finds its own again."""
    names: list[str] = []

    def note(*_: object, checkpoint: Path, **__: object) -> None:
        names.append(checkpoint.name)
        raise apex.DataError("that was all")

    monkeypatch.setattr(apex.api, "evaluate", note)
    base = ("eval", "-r", apex.demo_model(), "-f", text, "--ctx", str(CTX))
    for more in (models, models[:1], models[:1], [*models[:1], "--two-pass"], ["--chunks", "2"]):
        assert invoke(*base, *more).exit_code == 1
    assert names[1] == names[2]
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"eval-text-[0-9a-f]{8}\.partial\.npz", name) for name in names)


def test_a_base_file_is_written_where_results_hold_every_candidate(
    models: list[Path], text: Path, tmp_path: Path
) -> None:
    arguments = ("-r", apex.demo_model(), models[0], "-f", text, *CHUNKS)
    first, later, out = tmp_path / "first.kld", tmp_path / "later.kld", tmp_path / "eval.json"
    found = document(*arguments, "-o", out, "--save-base", first)
    again = document(*arguments, "-o", out, "--save-base", later)
    assert later.read_bytes() == first.read_bytes()
    assert again["candidates"] == found["candidates"]
    assert again["noise_floor"] == found["noise_floor"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_numbers(models: list[Path], tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "eval.json"
    text.write_text(demo_text(30_000, seed=9))
    arguments = ("-r", apex.demo_model(), models[0], "-f", text, "--ctx", str(CTX),
                 "--noise-chunks", "0", "--gpu-layers", "0")  # fmt: skip
    stopped = run_stopped(
        CHUNK_SCORED, "eval", *arguments, "--threads", "1", "-o", out,
        when="args[1].n_chunks_done",
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command goes on from there" in stopped.stderr
    (partial,) = tmp_path.glob("eval.json-*.partial.npz")
    other = document("-r", apex.demo_model(), models[0], *arguments[3:], "--chunks", "1", "-o", out)
    assert other["candidates"][0]["n_positions"] < 2 * CTX
    out.unlink()
    assert partial.exists()  # another question beside it has a file of its own
    resumed = document(*arguments, "--threads", "2", "-o", out)
    assert not partial.exists()
    assert resumed["candidates"] == document(*arguments, "--threads", "2")["candidates"]


def test_each_text_by_itself(models: list[Path], text: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, seed in (("chat", 3), ("tools", 4)):
        (texts / f"{name}.txt").write_text(demo_text(8_000, seed=seed))
    out = tmp_path / "found"
    asked = ("-r", apex.demo_model(), *models, "-f", texts, "-f", text, "--by-text", "-o", out)
    found = document(*asked, "--ctx", str(CTX), "--chunks", "6", "--noise-chunks", "0")
    assert list(found["texts"]) == ["chat", "tools", "text"]
    rows = [(gain["text"], gain["candidate"], gain["against"]) for gain in found["gains"]]
    assert rows[:2] == [("chat", "q8", None), ("chat", "q3", "q8")]
    worse = found["gains"][1]
    q8, q3 = found["texts"]["chat"]["candidates"]
    assert worse["change"] == pytest.approx(q3["kld_mean"] / q8["kld_mean"] - 1)
    assert 0 < worse["low"] < worse["change"] < worse["high"]
    assert sorted(path.name for path in out.iterdir()) == ["chat.json", "text.json", "tools.json"]
    assert Results.load(out / "tools.json").data is not None
    alone = document("-r", apex.demo_model(), *models, "-f", texts / "chat.txt",
                     "--ctx", str(CTX), "--chunks", "6", "--noise-chunks", "0")  # fmt: skip
    assert alone["candidates"][1]["kld_mean"] == q3["kld_mean"]
    shown = invoke("eval", *asked, "--ctx", str(CTX), "--chunks", "6", "--noise-chunks", "0")
    assert shown.exit_code == 0, shown.stderr
    assert "wrote    3 files in" in shown.stdout
    assert re.search(r"chat +q8 .*\n +q3 +\d.* \+\d+\.\d% to \+\d+\.\d%", shown.stdout)


def test_what_by_text_refuses(models: list[Path], text: Path, tmp_path: Path) -> None:
    twin = tmp_path / text.name
    twin.write_text("other")
    empty = tmp_path / "empty"
    empty.mkdir()
    reference = ("-r", apex.demo_model())
    for args, message in (
        ((*reference, "-f", text, "-f", twin), "both called 'text'"),
        ((*reference, "-f", empty), "has no files that end in .txt"),
        (("-f", text), "--by-text has no effect without --reference"),
        ((*reference, "-f", text, "--save-base", tmp_path / "b"), "--save-base has no effect with"),
        ((*reference, "-f", text, "--hellaswag", text), "--hellaswag has no effect with --by-text"),
    ):
        done = invoke("eval", models[0], *args, "--by-text")
        assert done.exit_code == 2, done.stdout
        assert message in " ".join(done.stderr.replace("│", " ").split())
