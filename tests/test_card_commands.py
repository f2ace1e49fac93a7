"""Every command of a repository's card is run, or read by the grammar of the program it is for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import apex_native as apex
from apex_native.publish import Repository, build_repository, upload_repository
from cli_tools import environment, invoke, run
from hub_server import hub_server
from modelfile_grammar import parse_modelfile
from runtime_server import served
from test_names import llama_choice, llama_tag

pytestmark = pytest.mark.slow

REPO = "me/Demo-APEX-GGUF"
ABOUT = ("--base-model", "Owner/Demo", "--license", "apache-2.0", "--quantized-by", "me")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Files of two tiers and a mix, one of them without the importance matrix."""
    root = tmp_path_factory.mktemp("card")
    folder = root / "Demo-APEX-GGUF"
    folder.mkdir()
    source = root / "Demo-BF16.gguf"
    source.symlink_to(apex.demo_model())
    matrix = folder / "Demo.imatrix.gguf"
    shutil.copy(apex.demo_imatrix(), matrix)
    for recipe in (
        ("--tier", "i-compact,mini", "--imatrix", matrix, "--prior", "none"),
        ("--type", "IQ4_XS,Q8_0"),
    ):
        done = invoke("quantize", source, *recipe, *ABOUT, "-o", folder)
        assert done.exit_code == 0, done.stderr
    return build_repository(folder, REPO)


@pytest.fixture(scope="module")
def commands(built: Repository) -> list[list[str]]:
    text = (built.folder / "README.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)\n```", text, re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def of(commands: list[list[str]], *beginning: str) -> list[list[str]]:
    found = [words for words in commands if words[: len(beginning)] == list(beginning)]
    assert found, beginning
    return found


def models(built: Repository) -> list[str]:
    return [name for name in built.files if name.endswith(".gguf")]


def test_there_are_no_commands_but_these(commands: list[list[str]]) -> None:
    known = {
        ("llama-server", "-hf"), ("hf", "download"), ("llama-server", "-m"), ("ollama", "run"),
        ("ollama", "create"), ("local-ai", "run"), ("apex-native", "quantize"),
    }  # fmt: skip
    assert {tuple(words[:2]) for words in commands} == known


def test_quantize_makes_the_same_bytes(
    built: Repository, commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Demo-BF16.gguf").symlink_to(apex.demo_model())
    shutil.copy(built.folder / "Demo.imatrix.gguf", tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in of(commands, "apex-native", "quantize"):
        asked = [word.replace("MODEL-BF16", "Demo-BF16") for word in words[1:]]
        done = run(*asked)
        assert done.returncode == 0, done.stderr
    made = [name for name in models(built) if not name.endswith(".imatrix.gguf")]
    assert len(made) == 4
    for name in made:
        assert (tmp_path / name).read_bytes() == (built.folder / name).read_bytes()


def test_hf_downloads_and_the_sums_are_right(
    built: Repository, commands: list[list[str]], tmp_path: Path
) -> None:
    ((_, *words),) = of(commands, "hf", "download")
    with hub_server() as hub:
        upload_repository(built, endpoint=hub.url, token="hf_test")
        hub.publish(REPO, hub.repositories[REPO])
        client = "import sys; from huggingface_hub.cli.hf import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", client, *words], cwd=tmp_path, capture_output=True, text=True,
            check=False,
            env=environment(
                HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), HF_TOKEN="hf_test",
                HF_HUB_OFFLINE="0",
            ),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = words[2]
    assert (tmp_path / name).read_bytes() == (built.folder / name).read_bytes()
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"],
        cwd=built.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")


def test_llama_server_answers(built: Repository, commands: list[list[str]]) -> None:
    pytest.importorskip("xllamacpp")
    openai = pytest.importorskip("openai")
    ((_, *words),) = of(commands, "llama-server", "-m")
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given.keys() == {"-m", "-c", "-ngl"}
    path = built.folder / given["-m"]
    with served(path, ctx=int(given["-c"]), gpu_layers=int(given["-ngl"])) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120)
        asked = [{"role": "user", "content": "Hello"}]
        answer = client.chat.completions.create(model="any", messages=asked, max_tokens=4)
        client.close()
    assert answer.usage.completion_tokens > 0


def test_tags_find_their_file(built: Repository, commands: list[list[str]]) -> None:
    text = (built.folder / "README.md").read_text("utf-8")
    tags = dict(re.findall(r"^\| `(\w+)` \| (\S+\.gguf) \|$", text, re.M))
    assert len(tags) == 4
    for words in (*of(commands, "llama-server", "-hf"), *of(commands, "ollama", "run")):
        repo, _, tag = words[2].removeprefix("hf.co/").partition(":")
        assert repo == REPO
        assert tag in tags
    for tag, name in tags.items():
        assert llama_tag(name) == tag
        assert llama_choice(models(built), tag) == name


def test_ollama_creates_from_a_file_that_is_there(
    built: Repository, commands: list[list[str]]
) -> None:
    for _, _, name, option, modelfile in of(commands, "ollama", "create"):
        assert option == "-f"
        # Ollama's types/model/name.go: letters, digits, dots, dashes and underscores.
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)
        instructions = dict(parse_modelfile((built.folder / modelfile).read_text("utf-8")))
        assert (built.folder / instructions["from"]).exists()


def test_localai_knows_the_model(built: Repository, commands: list[list[str]]) -> None:
    for _, _, option, galleries, name in of(commands, "local-ai", "run"):
        assert option == "--galleries"
        (gallery,) = json.loads(galleries)
        assert gallery.keys() == {"name", "url"}
        file = gallery["url"].removeprefix(f"https://huggingface.co/{REPO}/resolve/main/")
        entries = yaml.safe_load((built.folder / file).read_text("utf-8"))
        assert name in [entry["name"] for entry in entries]


def test_the_documented_sequence_makes_a_repository(tmp_path: Path) -> None:
    guide = Path(__file__).parents[1] / "docs/guide/publish.md"
    blocks = re.findall(r"```console\n(.*?)\n```", guide.read_text("utf-8"), re.S)
    (script,) = [block for block in blocks if "demo_model()" in block]
    assert len(re.sub(r"\\\n", "", script).splitlines()) <= 5
    here = f'apex-native() {{ {shlex.quote(sys.executable)} -m apex_native "$@"; }}\n'
    here += f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euc", here + script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=environment(COLUMNS="80"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "Demo-APEX-GGUF"
    text = (folder / "README.md").read_text("utf-8")
    assert "base_model:\n- me/Demo\n" in text
    rows = re.findall(r"^\| \[(Demo-APEX-\w+\.gguf)\].* \| (0\.\d+) ± ", text, re.M)
    assert len(rows) == 3
    assert all(0 < float(kld) < 1 for _, kld in rows)
    assert "--imatrix Demo-BF16.imatrix.gguf" in text
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False
    )
    assert checked.returncode == 0


@pytest.mark.parametrize(
    ("options", "is_there"),
    [(("--tensor-type", "ssm_out=q8_0"), False), (("--quantized-by", "me"), True)],
)
def test_what_a_command_would_not_make_is_in_none(
    tmp_path: Path, options: tuple[str, ...], is_there: bool
) -> None:
    done = invoke(
        "quantize", apex.demo_model(), "--type", "Q4_0", *options, "-o", tmp_path / "x-Q4_0.gguf"
    )
    assert done.exit_code == 0, done.stderr
    build_repository(tmp_path, REPO)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert ("apex-native quantize" in text) == is_there
