"""A repository of a folder: what is in it, what is refused, and the real client's upload of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
import yaml

import apex_native as apex
from apex_native.errors import DataError, OutputError
from apex_native.evaluation import ModelFile
from apex_native.publish import Repository, build_repository, upload_repository
from apex_native.publish.chat import chat_format
from apex_native.publish.readers import reader_notes
from apex_native.types import GgmlType, GgufFacts, TensorInfo
from cli_tools import invoke
from hub_server import Hub, hub_server
from modelfile_grammar import parse_modelfile
from results_data import evaluation
from tiny_models import write_tiny_model

REPO = "me/Tiny-APEX-GGUF"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small quantized files with their manifests, and a matrix."""
    root = tmp_path_factory.mktemp("publish")
    source = write_tiny_model(root / "Tiny-4x1M-F32.gguf", "qwen3moe")
    folder = root / "out"
    folder.mkdir()
    about = ("--base-model", "acme/Tiny-4x1M", "--license", "apache-2.0")
    done = invoke("quantize", source, "--type", "Q8_0,Q5_0,Q4_0", *about, "-o", folder)
    assert done.exit_code == 0, done.stderr
    shutil.copy(apex.demo_imatrix(), folder / "Tiny.imatrix.gguf")
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "repo"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


def results_of(folder: Path) -> apex.Results:
    names = [path.name for path in sorted(folder.glob("Tiny-*.gguf"))]
    found = evaluation(len(names))
    named = [replace(c, name=n) for c, n in zip(found.candidates, names, strict=True)]
    return replace(found, candidates=tuple(named), comparisons=())


def card(folder: Path) -> tuple[dict[str, object], str]:
    text = (folder / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_says_what_is_there(folder: Path) -> None:
    results = results_of(folder)
    built = build_repository(folder, REPO, results=results)
    front, body = card(folder)
    assert front["base_model"] == ["acme/Tiny-4x1M"]
    assert front["base_model_relation"] == "quantized"
    assert (front["license"], front["pipeline_tag"]) == ("apache-2.0", "text-generation")
    assert {"gguf", "moe"} <= set(front["tags"])  # type: ignore[arg-type]
    for candidate in results.candidates:
        (row,) = [line for line in body.splitlines() if f"]({candidate.name})" in line]
        assert f"{candidate.kld_mean:.4f}" in row
        tag = candidate.name.removesuffix(".gguf").rpartition("-")[2]
        assert f"| `{tag}` | {candidate.name} |" in body
    assert "apex-native 0.1.0, llama.cpp " in body
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", body)) <= set(built.files)
    assert "plots/kld_vs_size.png" in built.files
    assert "None" not in body


def test_numbers_are_of_the_very_file_or_refused(folder: Path) -> None:
    results = results_of(folder)
    real = {p.name: ModelFile.describe(p).fingerprint for p in folder.glob("Tiny-*.gguf")}
    *others, last = [replace(c, fingerprint=real[c.name]) for c in results.candidates]
    renamed = replace(last, name="measured elsewhere")  # the fingerprint knows it
    with_cache = replace(others[0], kld_mean=7.77777, type_v="q4_0")
    known = replace(results, candidates=(with_cache, *others, renamed))
    built = build_repository(folder, REPO, results=known)
    _, body = card(folder)
    assert (built.unmeasured, "7.7777" in body) == ((), False)
    (row,) = [line for line in body.splitlines() if f"]({last.name})" in line]
    assert f"{last.kld_mean:.4f}" in row
    fewer = replace(results, candidates=tuple(others))
    assert build_repository(folder, REPO, results=fewer).unmeasured == (last.name,)
    stale = replace(results, candidates=(*others, replace(last, fingerprint="0" * 64)))
    with pytest.raises(DataError, match=rf"{last.name}: .*of another file.*evaluate it again"):
        build_repository(folder, REPO, results=stale)


def test_split_files_are_found_by_results_and_their_matrix_is_named(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "Tiny-4x1M-F32.gguf", "qwen3moe")
    folder = tmp_path / "split"
    folder.mkdir()
    text = tmp_path / "my_text.txt"
    text.write_text("hello " * 40)
    matrix = folder / "Tiny.imatrix.gguf"
    done = invoke("imatrix", source, "-f", text, "--ctx", "8", "--chunks", "2", "-o", matrix)
    assert done.exit_code == 0, done.stderr
    split = ("--split-max-size", "300K", "--imatrix", matrix, "-o", folder)
    done = invoke("quantize", source, "--type", "Q8_0,Q4_0", *split)
    assert done.exit_code == 0, done.stderr
    shards = sorted(folder.glob("*-of-*.gguf"))
    assert len(shards) > 2
    scored = ("--ctx", "8", "--chunks", "2", "-o", tmp_path / "eval.json")
    done = invoke("eval", "-r", source, *shards, "-f", text, *scored)
    assert done.exit_code == 0, done.stderr
    results = apex.Results.load(tmp_path / "eval.json")
    assert sorted(c.name for c in results.candidates) == ["Tiny-4x1M-Q4_0", "Tiny-4x1M-Q8_0"]
    assert build_repository(folder, REPO, results=results).unmeasured == ()
    _, body = card(folder)
    assert "| my_text.txt, 16 tokens (`Tiny.imatrix.gguf`) |" in body
    assert "of a split file the same tensors, in one file" in body


def test_a_changed_byte_is_found(folder: Path) -> None:
    file = folder / "Tiny-4x1M-Q5_0.gguf"
    whole = file.read_bytes()
    with apex.open_gguf(file) as model:
        name = next(t.name for t in model.facts.tensors if "ffn_up_exps" in t.name)
        place = whole.index(model.tensor_bytes(name).tobytes()) + 1000
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DataError, match=f"the weights of {name} have changed"):
        build_repository(folder, REPO)
    place = whole.index(b"acme/Tiny-4x1M")
    file.write_bytes(whole[:place] + b"A" + whole[place + 1 :])
    with pytest.raises(DataError, match="metadata have changed"):
        build_repository(folder, REPO)
    assert not (folder / "README.md").exists()


def test_a_manifest_of_before_is_said(folder: Path) -> None:
    path = folder / "Tiny-4x1M-Q5_0.gguf.manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["headers"]
    for tensor in manifest["tensors"]:
        del tensor["checksum"]
    path.write_text(json.dumps(manifest))
    assert build_repository(folder, REPO).uncompared == ("Tiny-4x1M-Q5_0.gguf",)
    done = invoke("publish", folder, "--repo", REPO, "--dry-run")
    assert "Tiny-4x1M-Q5_0.gguf: its manifest is of an earlier version" in done.stderr


@pytest.mark.parametrize("name", ["yaml", "huggingface_hub"])
def test_a_missing_extra_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as Python marks what cannot be imported
    done = invoke("publish", folder, "--repo", REPO, "--dry-run")
    assert done.exit_code == 1
    assert "`pip install 'apex-native[publish]'` brings them" in done.stderr
    assert not (folder / "README.md").exists()


def test_every_file_is_summed_and_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    built = build_repository(folder, REPO)
    assert "notes.txt" not in built.files
    assert "Tiny.imatrix.gguf" in built.files
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    assert sums.keys() == set(built.files) - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert built.nbytes == sum((folder / name).stat().st_size for name in built.files)


# Fields by their YAML names: core/gallery/models_types.go of mudler/LocalAI at 26f0c42, its
# metadata_type.go at 05a3d00, and `variants` ([{model: NAME}]) of describe_variants.go at 6409492.
GALLERY_FIELDS = {
    *("name", "url", "urls", "description", "license", "icon", "tags", "last_checked", "variants"),
    *("config_file", "overrides", "files", "gallery", "backend", "size"),
}
OVERRIDE_FIELDS = {
    *("backend", "known_usecases", "options", "parameters", "mmproj", "template", "function"),
}


def test_the_gallery_entry_has_localais_fields_and_only_them(folder: Path) -> None:
    built = build_repository(folder, REPO)
    entries = yaml.safe_load((folder / "localai-gallery.yaml").read_text())
    names = [entry["name"] for entry in entries]
    assert len(entries) == len(set(names)) == 3
    for entry in entries:
        assert entry.keys() <= GALLERY_FIELDS
        assert entry["overrides"].keys() <= OVERRIDE_FIELDS
        (file,) = entry["files"]
        assert file.keys() == {"filename", "sha256", "uri"}
        assert file["filename"] == entry["overrides"]["parameters"]["model"]
        name = file["uri"].removeprefix(f"huggingface://{REPO}/")
        assert file["sha256"] == built.sums[name]
    assert [v["model"] for v in entries[0]["variants"]] == names[1:]
    assert all(entry["variants"] == [] for entry in entries[1:])


@pytest.mark.parametrize(
    "bad",
    [
        "FROM a\nTEMPLATE \"\"\"x", "FROM a\nPARAMETER num_ctx many", "FROM a\nPARAMETER heat 1",
        "PARAMETER num_ctx 1", "FROM a\nBECOME b", 'FROM a\nPARAMETER stop "x',
    ],
)  # fmt: skip
def test_what_ollama_refuses_the_grammar_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match=r"no |invalid literal"):
        parse_modelfile(bad)


def rendered(template: str, messages: list[dict[str, str]]) -> str:
    """As much of Go's templates as ours use."""
    inner = re.fullmatch(r"{{- range \.Messages }}(.*){{ end }}(.*)", template, re.S)
    assert inner is not None
    out = ""
    for message in messages:
        chosen = re.sub(
            r'{{ if eq \.Role "(\w+)" }}(.*?){{ else }}(.*?){{ end }}',
            lambda m: m[2] if message["role"] == m[1] else m[3],  # noqa: B023
            inner[1], flags=re.S,
        )  # fmt: skip
        out += chosen.replace("{{ .Role }}", message["role"]).replace(
            "{{ .Content }}", message["content"]
        )
    assert "{{" not in out + inner[2]
    return out + inner[2]


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>"
    "\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + "
    "message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, LLAMA_3, GEMMA])
def test_ollamas_template_says_what_the_models_own_says(template: str) -> None:
    """Of the families as they are published, without a system's message."""
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Add 1 and 2."},
    ]
    known = chat_format(GgufFacts({"tokenizer.chat_template": template}, (), {}))
    assert known is not None
    expected = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
    assert rendered(known.template, messages) == expected


def test_the_modelfile_is_in_ollamas_grammar(folder: Path) -> None:
    built = build_repository(folder, REPO)
    modelfiles = [name for name in built.files if name.endswith(".Modelfile")]
    assert len(modelfiles) == 3
    for name in modelfiles:
        instructions = parse_modelfile((folder / name).read_text())
        assert instructions[0] == ("from", f"./{name.removesuffix('.Modelfile')}.gguf")
        assert (folder / instructions[0][1]).exists()
        assert dict(instructions)["template"].startswith("{{- range .Messages }}<|im_start|>")
        assert [i for i in instructions if i[0] not in ("from", "template")] == [
            ("num_ctx", "512"), ("stop", "<|im_start|>"), ("stop", "<|im_end|>"),
        ]  # fmt: skip


def test_an_unknown_template_is_left_to_the_program() -> None:
    facts = GgufFacts({"tokenizer.chat_template": "[INST] {{ x }} [/INST]"}, (), {})
    assert chat_format(facts) is None
    assert chat_format(GgufFacts({}, (), {})) is None


def test_what_does_not_read_a_file_is_said() -> None:
    def facts(name: str, type: GgmlType) -> GgufFacts:
        return GgufFacts({}, (TensorInfo(name, (256,), type, type.tensor_bytes((256,))),), {})

    assert dict(reader_notes([facts("a", GgmlType.Q6_K)]))["Ollama"] == "every file here"
    assert "TQ1_0" in dict(reader_notes([facts("a", GgmlType.TQ1_0)]))["Ollama"]
    fused = dict(reader_notes([facts("blk.0.ffn_gate_up_exps.weight", GgmlType.Q6_K)]))
    assert fused["transformers"].startswith("no")


def test_nothing_unverified_is_published(folder: Path) -> None:
    manifest = folder / "Tiny-4x1M-Q5_0.gguf.manifest.json"
    whole = manifest.read_text()
    document = json.loads(whole)
    document["tensors"][0]["type"] = "Q6_K"
    manifest.write_text(json.dumps(document))
    with pytest.raises(DataError, match="its manifest says"):
        build_repository(folder, REPO)
    manifest.write_text("{")
    with pytest.raises(DataError, match="no manifest of quantize"):
        build_repository(folder, REPO)
    manifest.unlink()
    with pytest.raises(DataError, match="missing"):
        build_repository(folder, REPO)
    manifest.write_text(whole)
    for suffix in ("", ".manifest.json"):
        twin = folder / f"Other-Q5_0.gguf{suffix}"
        shutil.copy(folder / f"Tiny-4x1M-Q5_0.gguf{suffix}", twin)
    with pytest.raises(DataError, match="both ':Q5_0'"):
        build_repository(folder, REPO)


def test_a_card_of_ones_own_stays(folder: Path) -> None:
    (folder / "README.md").write_text("# mine")
    with pytest.raises(OutputError, match="not written by publish"):
        build_repository(folder, REPO)
    build_repository(folder, REPO, force=True)
    build_repository(folder, REPO)  # what publish wrote it replaces


@pytest.mark.parametrize("repo", ["name", "a/b/c", "/x", "https://huggingface.co/a/b"])
def test_a_repository_is_owner_and_name(folder: Path, repo: str) -> None:
    with pytest.raises(DataError, match="OWNER/NAME"):
        build_repository(folder, repo)


def upload(built: Repository, hub: Hub) -> str:
    return upload_repository(built, endpoint=hub.url, token="hf_test")


def test_the_real_client_uploads_it_and_goes_on(folder: Path, hub: Hub) -> None:
    (folder / "notes.txt").write_text("mine")
    built = build_repository(folder, REPO, results=results_of(folder))
    hub.refuse = 1000
    with pytest.raises(OutputError, match="publish again to go on"):
        upload(built, hub)
    hub.refuse = 1  # the client sends a part that was refused again, in smaller ones
    url = upload(built, hub)
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert hub.repositories[REPO].keys() == set(built.files)
    for name in built.files:
        assert hub.repositories[REPO][name] == (folder / name).read_bytes()
    n_commits = len(hub.commits)
    upload(built, hub)  # all of it is there
    assert len(hub.commits) == n_commits
    build_repository(folder, REPO, title="Another title")
    upload(build_repository(folder, REPO, title="Another title"), hub)
    assert set(hub.commits[-1]) == {"README.md", "SHA256SUMS", "localai-gallery.yaml"}


def test_a_hub_that_is_not_there_is_a_sentence(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(OutputError, match=r"did not take it .*; check the network"):
            upload_repository(build_repository(folder, REPO), endpoint=url, token="hf_test")


def test_what_changed_after_it_was_verified_is_not_sent(folder: Path, hub: Hub) -> None:
    built = build_repository(folder, REPO)
    target = folder / "Tiny-4x1M-Q4_0.gguf"
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    target.write_bytes(bytes(content))
    with pytest.raises(DataError, match="changed since"):
        upload(built, hub)
    assert REPO not in hub.repositories


def test_the_command_line_writes_and_uploads_nothing(folder: Path) -> None:
    done = invoke("publish", folder, "--repo", REPO, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["uploaded"] is None
    assert document["bytes"] == sum(file["bytes"] for file in document["files"])
    again = invoke("publish", folder, "--repo", REPO, "--dry-run")
    assert "nothing was uploaded" in again.stdout
