"""A Qwen3.5-MoE with a real tokenizer and chat template, from its folder to an answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="conversion needs the extra `convert`")
transformers = pytest.importorskip("transformers")

from gguf import GGUFReader  # noqa: E402
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402  # noqa: E402

import apex_native as apex  # noqa: E402
import checkpoint_models  # noqa: E402  (needs torch)
from cli_tools import invoke  # noqa: E402
from runtime_server import served  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parent.parent
CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut text before merging (their tokenizer.json)."""

SIZES = {
    "vocab_size": 151_936, "tie_word_embeddings": True, "hidden_size": 256, "head_dim": 64,
    "linear_key_head_dim": 64, "linear_value_head_dim": 64, "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.25,
                        "mrope_section": [3, 3, 2], "mrope_interleaved": True},
}  # fmt: skip
"""Widths that llama.cpp's kernels and K-quants take, and the vocabulary of Qwen2 and Qwen3."""

QUESTION = "Grüße! Why is 12345 odd?\n\n  def f(x):  # 漢字 🦙"
N_TOKENS = 6


@pytest.fixture(scope="module")
def upstream() -> Path:
    fetch = ROOT / "third_party" / "llama.cpp" / "fetch.py"
    found = subprocess.run(
        [sys.executable, fetch, "--part", "converter"], capture_output=True, text=True, check=True
    )
    return Path(found.stdout.strip())


def save_qwen_tokenizer(vocabulary: Path, template: Path, folder: Path) -> None:
    """Qwen's tokenizer.json again, from the vocabulary that upstream ships as GGUF."""
    fields = GGUFReader(vocabulary).fields
    tokens, merges, types = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type")
    )
    special = [token for token, type in zip(tokens, types, strict=True) if type != 1]
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    known = {token: i for i, token in enumerate(tokens) if not token.startswith("[PAD")}
    tokenizer = Tokenizer(models.BPE(known, pairs))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    named = [token for token in special if token in known]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in named])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=template.read_text(),
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, upstream: Path) -> Path:
    """A checkpoint as transformers saves it, MTP layer and vision tower included."""
    path = tmp_path_factory.mktemp("talks") / "Qwen3.5-tiny"
    path.mkdir()
    checkpoint_models.qwen3_5_moe(path, **SIZES)
    save_qwen_tokenizer(
        upstream / "models" / "ggml-vocab-qwen35.gguf",
        upstream / "models" / "templates" / "Qwen3.5-4B.jinja",
        path,
    )
    return path


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    """What the commands of the README make of the folder."""
    made = {"16 bits": folder.parent / "bf16.gguf", "quality": folder.parent / "quality.gguf"}
    commands = (
        ["convert", folder, "-o", made["16 bits"]],
        ["quantize", folder, "--tier", "quality", "-o", made["quality"]],
    )
    for command in commands:
        done = invoke(*command, "-q")
        assert done.exit_code == 0, done.stderr
    return made


def asked(folder: Path) -> tuple[Any, str]:
    """The tokenizer, and the question as its template puts it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer, text


def test_the_tokenizer_is_recognised_and_carried_over(
    folder: Path, files: dict[str, Path], upstream: Path
) -> None:
    template = (upstream / "models" / "templates" / "Qwen3.5-4B.jinja").read_text()
    tokenizer, text = asked(folder)
    expected = tokenizer.encode(text, add_special_tokens=False)
    for path in files.values():
        with apex.open_gguf(path) as file:
            assert file.metadata["tokenizer.ggml.pre"] == "qwen2"  # by upstream's own check
            assert file.metadata["tokenizer.chat_template"] == template
        with apex.load_model(path, n_threads=2, vocab_only=True) as model:
            assert model.tokenize(text, add_special=False, parse_special=True).tolist() == expected


def test_it_says_what_transformers_says(folder: Path, files: dict[str, Path]) -> None:
    tokenizer, text = asked(folder)
    prompt = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt")
    reference = transformers.Qwen3_5MoeForConditionalGeneration.from_pretrained(folder)
    theirs = reference.float().generate(prompt, max_new_tokens=N_TOKENS, do_sample=False)
    with apex.load_model(files["16 bits"], n_threads=2) as model:
        ours = model.generate(prompt[0].numpy(), n_predict=N_TOKENS, temperature=0)
    assert ours.tolist() == theirs[0, prompt.shape[1] :].tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp is a test requirement on Linux")
@pytest.mark.parametrize("name", ["16 bits", "quality"])
def test_it_talks_here_and_in_another_runtime(
    name: str, folder: Path, files: dict[str, Path]
) -> None:
    openai = pytest.importorskip("openai")
    _, text = asked(folder)
    with apex.load_model(files[name], n_threads=2) as model:
        prompt = model.tokenize(text, add_special=False, parse_special=True)
        ours = model.detokenize(model.generate(prompt, n_predict=N_TOKENS, temperature=0))
    with (
        served(files[name]) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120) as client,
    ):
        answer = client.completions.create(
            model="any", prompt=text, max_tokens=N_TOKENS, temperature=0
        )
        talk = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": QUESTION}], max_tokens=4
        )
    assert answer.choices[0].text == ours
    assert talk.choices[0].message.role == "assistant"
    assert talk.usage.prompt_tokens == len(prompt)
    assert talk.usage.completion_tokens > 0


def test_a_folder_is_calibrated_and_evaluated_through_a_converted_file(
    folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEX_CACHE_DIR", str(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "CONTRIBUTING.md").read_text())
    cut = ("-f", text, "-c", "64", "--chunks", "2", "-q")
    asked = (
        ["imatrix", folder, "-o", tmp_path / "imatrix.gguf", *cut],
        ["eval", files["quality"], "-r", folder, "-o", tmp_path / "eval.json", *cut],
        ["quantize", folder, "--tier", "i-quality", "--calibration", text, "-q",
         "-o", tmp_path / "i.gguf"],
    )  # fmt: skip
    times = set()
    for command in asked:
        done = invoke(*command)
        assert done.exit_code == 0, done.stderr
        (kept,) = (tmp_path / "converted").iterdir()
        times.add(kept.stat().st_mtime_ns)
    assert kept.name.startswith("Qwen3.5-tiny-")
    assert kept.read_bytes() == files["16 bits"].read_bytes()
    assert len(times) == 1  # converted once for all of them
    assert apex.load_imatrix(tmp_path / "imatrix.gguf").entries
