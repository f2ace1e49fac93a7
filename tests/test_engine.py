"""Models that compute: loading, tokenizing, generating, and files llama.cpp would abort on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import apex_native as apex
from apex_native._native import core
from apex_native.engine import Model, load_model
from gguf_builder import ValueType, pair, write_gguf
from isolation import Isolation


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load_model(apex.demo_model(), n_threads=2) as loaded:
        yield loaded


# --- tokens -------------------------------------------------------------------------------------


def stored_vocabulary() -> list[str]:
    """The token texts as another reader finds them in the file."""
    field = GGUFReader(apex.demo_model()).fields["tokenizer.ggml.tokens"]
    return [bytes(field.parts[i]).decode() for i in field.data]


def test_vocabulary_is_the_files(model: Model) -> None:
    stored = stored_vocabulary()
    assert model.n_vocab == len(stored)
    for token in model.eos_tokens:
        assert model.token_text(token) == stored[token]


@pytest.mark.parametrize(
    "text", ["", "a", "def f(x):\n    return x\n", "ñandú — 漢字 🎈", "\0\x01"]
)
def test_text_survives_tokens(model: Model, text: str) -> None:
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    assert tokens.dtype == np.int32
    assert model.detokenize(tokens) == text


def test_special_tokens_are_parsed_only_when_asked(model: Model) -> None:
    marker = "<|im_start|>"
    assert len(model.tokenize(marker, add_special=False, parse_special=True)) == 1
    assert len(model.tokenize(marker, add_special=False, parse_special=False)) > 1
    assert model.chat_template is not None
    assert marker in model.chat_template


def test_fingerprint_is_the_vocabularys(model: Model, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(Path(apex.demo_model()).read_bytes())
    with load_model(copy, vocab_only=True) as again:
        assert again.fingerprint == model.fingerprint
    changed = copy.read_bytes().replace(b"<|im_start|>", b"<|im_begin|>")
    copy.write_bytes(changed)
    with load_model(copy, vocab_only=True) as other:
        assert other.fingerprint != model.fingerprint


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1])
def test_tokens_outside_the_vocabulary_are_refused(model: Model, token: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 4095"):
        model.detokenize([token])
    with pytest.raises(ValueError, match="expected 0 to 4095"):
        model.generate([token])


# --- generation ---------------------------------------------------------------------------------


def test_generation_depends_on_the_seed_alone(model: Model) -> None:
    prompt = model.tokenize("The", add_special=True, parse_special=False)
    first = model.generate(prompt, n_predict=40, seed=5)
    assert np.array_equal(first, model.generate(prompt, n_predict=40, seed=5))
    others = [model.generate(prompt, n_predict=40, seed=seed) for seed in range(6, 9)]
    assert any(not np.array_equal(first, other) for other in others)


def test_generation_has_an_end(model: Model) -> None:
    prompt = model.tokenize("x", add_special=True, parse_special=False)
    tokens = model.generate(prompt, n_predict=7, temperature=0)
    assert 1 <= len(tokens) <= 7
    assert not set(tokens[:-1].tolist()) & set(model.eos_tokens)


def test_the_likeliest_token_needs_no_seed(model: Model) -> None:
    prompt = model.tokenize("import", add_special=True, parse_special=False)
    first, second = (model.generate(prompt, n_predict=9, temperature=0, seed=s) for s in (1, 2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "settings",
    [{"n_predict": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
     {"top_p": 1.5}, {"top_k": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(model: Model, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        model.generate([1], **settings)


def test_more_experts_compute_something_else() -> None:
    prompt = [5, 6, 7, 8]
    continuations = []
    for count in (1, 8):
        with load_model(apex.demo_model(), n_threads=2, expert_used_count=count) as model:
            continuations.append(model.generate(prompt, n_predict=24, temperature=0))
    assert not np.array_equal(*continuations)


# --- life and death -----------------------------------------------------------------------------


def test_a_closed_model_says_so() -> None:
    model = load_model(apex.demo_model(), vocab_only=True)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.tokenize("a", add_special=False, parse_special=False)


def test_a_vocabulary_computes_nothing() -> None:
    with (
        load_model(apex.demo_model(), vocab_only=True) as model,
        pytest.raises(ValueError, match="vocabulary only"),
    ):
        model.generate([1])


def generate_for_ever(model: Model, stop: object) -> None:
    prompt = np.arange(5, dtype=np.int32)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}
    while True:
        model.native.generate(prompt, n_predict=400, n_threads=2, stop=stop, **settings)


def test_a_stop_is_heard(model: Model) -> None:
    stop = core.StopFlag()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(apex.Cancelled):
        generate_for_ever(model, stop)


def test_a_stopped_load_is_cancelled() -> None:
    stop = core.StopFlag()
    stop.set()
    with pytest.raises(apex.Cancelled, match="was stopped"):
        core.Model(str(apex.demo_model()), stop=stop)


# --- files and arguments that must not end the process ------------------------------------------


def load_changed(path: str, old: str, new: str) -> str:
    """Load the demo model with some of its bytes replaced."""
    content = Path(apex.demo_model()).read_bytes()
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert content.count(before) >= 1
    Path(path).write_bytes(content.replace(before, after, 1))
    with load_model(path) as model:
        return model.description


def u32_pair(key: str, value: int) -> bytes:
    return pair(key, ValueType.U32, value)


@pytest.mark.parametrize(
    ("key", "old", "new", "error"),
    [
        ("qwen35moe.block_count", 8, 0, "GgufError"),
        ("qwen35moe.block_count", 8, 513, "GgufError"),
        ("qwen35moe.block_count", 8, 9, "ModelError"),
        ("qwen35moe.expert_used_count", 2, 9, "GgufError"),
        ("qwen35moe.expert_used_count", 2, 0, "ModelError"),
        ("qwen35moe.expert_count", 8, 5000, "GgufError"),
        ("qwen35moe.embedding_length", 256, 255, "ModelError"),
        ("qwen35moe.attention.head_count", 4, 3, "ModelError"),
    ],
)
def test_settings_llama_cpp_aborts_on(
    isolation: Isolation, tmp_path: Path, key: str, old: int, new: int, error: str
) -> None:
    outcome = isolation.run(
        load_changed, str(tmp_path / "changed.gguf"), u32_pair(key, old).hex(),
        u32_pair(key, new).hex(),
    )  # fmt: skip
    assert outcome.error, outcome
    assert error in outcome.error, outcome


def load(path: str) -> str:
    with load_model(path) as model:
        return model.description


def test_what_is_no_model_is_refused(isolation: Isolation, tmp_path: Path) -> None:
    empty = write_gguf(tmp_path / "empty.gguf", [], [pair("a", ValueType.STRING, "b")])
    assert "GgufError" in isolation.run(load, str(empty)).error
    unknown = write_gguf(
        tmp_path / "unknown.gguf",
        [],
        [
            pair("general.architecture", ValueType.STRING, "nothing"),
            u32_pair("nothing.block_count", 1),
        ],
    )
    assert set(isolation.run(load, str(unknown)).error) & {"GgufError", "ModelError"}
    assert "GgufError" in isolation.run(load, str(tmp_path / "missing.gguf")).error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_mode": "rows"}, "expected none, layer or row, found 'rows'"),
        ({"expert_used_count": 9}, "expected 1 to 8"),
        ({"expert_used_count": -1}, "expected 1 to 8"),
    ],
)
def test_arguments_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(apex.demo_model(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": ["CUDA99"]}, "device 'CUDA99' is not here"),
        ({"tensor_split": [1.0] * 1000}, "expected at most"),
    ],
)
def test_gpus_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(apex.DeviceError, match=message):
        load_model(apex.demo_model(), **settings)  # type: ignore[arg-type]
