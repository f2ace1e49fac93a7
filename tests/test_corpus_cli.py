"""``apex-native corpus``: what it writes, what it refuses, and how it can be interrupted."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from apex_native.corpus import load_corpus, recipe_names
from apex_native.demo import demo_model
from cli_tools import invoke, start


def test_one_document_on_stdout_is_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    done = invoke(
        *("corpus", demo_model(), "--recipe", "chat", "--tokens", "4000", "--seed", "9"),
        *("-o", path, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    manifest = json.loads(done.stdout)
    corpus = load_corpus(path)
    assert manifest == corpus.manifest
    assert (manifest["seed"], manifest["tokens_wanted"]) == (9, 4000)
    assert manifest["recipe"]["name"] == "chat"


def test_seed_and_bytes(tmp_path: Path) -> None:
    texts = []
    for i, seed in enumerate(("3", "3", "4")):
        path = tmp_path / f"{i}.txt"
        args = ("corpus", demo_model(), "--tokens", "5000", "--seed", seed, "-o", path, "-q")
        assert invoke(*args).exit_code == 0
        texts.append(path.read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_a_text_for_each_domain(tmp_path: Path) -> None:
    whole, folder = tmp_path / "held-out.txt", tmp_path / "held-out"
    args = ("corpus", demo_model(), "--tokens", "6000", "--seed", "2", "-o", whole)
    done = invoke(*args, "--by-domain", folder)
    assert done.exit_code == 0, done.stderr
    assert f"4 files in {folder}" in " ".join(done.stdout.split())
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["chat.txt", "code.txt", "reasoning.txt", "tools.txt"]
    texts = [path.read_text() for path in folder.iterdir()]
    assert sorted("".join(texts)) == sorted(whole.read_text())
    assert "Question" not in (folder / "tools.txt").read_text()
    again = invoke(*args[:-1], tmp_path / "other.txt", "--by-domain", folder)
    assert again.exit_code == 1
    assert "chat.txt exists; choose another name or pass --force" in again.stderr


def test_a_domain_that_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.replace("domains.a", 'domains."../a"'))
    done = invoke("corpus", demo_model(), "--recipe", tmp_path / "r.toml", "-o", tmp_path / "c.txt",
                  "--by-domain", tmp_path / "d")  # fmt: skip
    assert done.exit_code == 1
    assert "domain '../a' cannot be a file's name" in done.stderr


def test_list_needs_no_model() -> None:
    listed = json.loads(invoke("corpus", "--list", "--json").stdout)
    assert tuple(recipe["name"] for recipe in listed["recipes"]) == recipe_names()
    assert "diverse" in invoke("corpus", "--list").stdout


def test_a_recipe_file_and_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("Too little.\n")
    (folder / "r.toml").write_text(
        'schema_version = 1\nname = "mine"\n[domains.notes]\nshare = 1\n'
        '[[domains.notes.sources]]\nkind = "files"\npaths = ["notes.txt"]\n'
    )
    args = ("corpus", demo_model(), "--recipe", folder / "r.toml", "--tokens", "900")
    done = invoke(*args, "-o", tmp_path / "c.txt")
    assert done.exit_code == 1
    assert "error: domain notes: " in done.stderr
    assert not (tmp_path / "c.txt").exists()
    done = invoke(*args, "-o", tmp_path / "c.txt", "--allow-short")
    assert done.exit_code == 0, done.stderr
    assert "warning: source notes.txt of domain notes gave" in done.stderr
    assert (tmp_path / "c.txt").read_text() == "Too little.\n\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "give the model that the text is for"),
        (("MODEL", "--recipe", "diverce"), 1, "did you mean diverse"),
        (("MODEL", "--tokens", "0"), 2, "--tokens"),
        (("none.gguf",), 1, "none.gguf"),
    ],
)
def test_errors_in_one_sentence(
    args: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    places = [str(demo_model()) if arg == "MODEL" else arg for arg in args]
    done = invoke("corpus", *places, "-o", tmp_path / "c.txt")
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["c.txt", "c.txt.manifest.json"])
def test_nothing_is_overwritten(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("mine")
    args = ("corpus", demo_model(), "--tokens", "3000", "-o", tmp_path / "c.txt")
    done = invoke(*args)
    assert done.exit_code == 1
    assert f"{existing} exists; choose another name or pass --force" in done.stderr
    assert (tmp_path / existing).read_text() == "mine"
    assert invoke(*args, "--force").exit_code == 0


RECIPE = """
schema_version = 1
name = "slow"
allow_short = true
[domains.a]
share = 1
[[domains.a.sources]]
kind = "self"
topic = "chat.english"
n_predict = 32
"""


def test_ctrl_c_keeps_what_the_model_wrote(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(RECIPE)
    path, journal = tmp_path / "c.txt", tmp_path / "c.txt.journal"
    args = ("corpus", demo_model(), "--recipe", tmp_path / "slow.toml", "--threads", "1")
    running = start(*args, "--tokens", "1000000", "-o", path)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130, stderr
    assert f"what the model wrote is kept in {journal}; go on with --resume" in stderr
    assert not path.exists()
    # An interrupt may tear the last line; it is dropped.
    known = journal.read_bytes().count(b"\n")
    assert known >= 2
    done = invoke(*args, "--tokens", "100", "-o", path, "--resume", "--json")
    assert done.exit_code == 0, done.stderr
    assert load_corpus(path).manifest["text"]["documents"] >= 1
    assert not journal.exists()
