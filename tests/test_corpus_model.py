"""Texts for a real model: its special tokens, its template, and what it writes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_native.corpus import (
    SHARE_TOLERANCE,
    GeneratingModel,
    GenerationJournal,
    build_corpus,
)
from apex_native.demo import demo_model
from apex_native.engine import Model, load_model
from apex_native.errors import CorpusError
from corpus_tools import recipe_of

SELF = (
    '[[source]]\nkind = "self"\nprompts = ["Compute 12 times 7.", "Find up to 9 files.", '
    '"A box holds 8 cups. Eli fills 5 boxes. How many cups are there?", "What comes next: 3, 7?", '
    '"What is the weather in Lima?", "Book a meeting with Ana at 9:00 in Oslo."]\n'
    "n_predict = 24\n"
)


class _Model:
    """A real model of which a test replaces one method."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Model]:
    with load_model(demo_model(), n_threads=1, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load_model(demo_model(), n_threads=1) as model:
        yield model


def test_shares_hold_as_the_model_counts(vocabulary: Model) -> None:
    corpus = build_corpus("diverse", vocabulary)
    tokens = vocabulary.tokenize(corpus.text, add_special=False, parse_special=True)
    assert corpus.n_tokens == len(tokens)
    assert abs(len(tokens) / 50_000 - 1) < SHARE_TOLERANCE
    for domain in corpus.manifest["domains"]:
        assert abs(domain["share"] - domain["share_wanted"]) < SHARE_TOLERANCE
    assert corpus.manifest["tokenizer"] == {"fingerprint": vocabulary.fingerprint, "n_vocab": 4096}


def test_special_tokens_are_single_tokens(vocabulary: Model) -> None:
    corpus = build_corpus("chat", vocabulary, tokens=8000)
    tokens = vocabulary.tokenize(corpus.text, add_special=False, parse_special=True)
    for text in ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"):
        (token,) = vocabulary.tokenize(text, add_special=False, parse_special=True)
        assert vocabulary.token_text(int(token)) == text
        assert np.count_nonzero(tokens == token) == corpus.text.count(text) > 0
    # As plain characters it would be another, longer text.
    plain = vocabulary.tokenize(corpus.text, add_special=False, parse_special=False)
    assert len(plain) > len(tokens)


def test_the_models_own_template_is_used(vocabulary: Model) -> None:
    corpus = build_corpus("chat", vocabulary, tokens=3000)
    assert corpus.manifest["chat_template"]["used"] == "model"
    assert "<|im_start|>user\n" in corpus.text
    assert vocabulary.eos_token in vocabulary.eos_tokens
    assert vocabulary.token_text(vocabulary.eos_token) == "<|im_end|>"


def test_the_model_writes_its_own_text(model: Model) -> None:
    assert isinstance(model, GeneratingModel)
    recipe = recipe_of(SELF, allow_short=True)
    first = build_corpus(recipe, model, tokens=120)
    assert first.text == build_corpus(recipe, model, tokens=120).text
    assert first.text != build_corpus(recipe, model, tokens=120, seed=2).text
    parts = first.text.split("<|im_start|>assistant\n")
    assert len(parts) > 1
    assert all(part.strip() for part in parts)
    assert first.manifest["domains"][0]["sources"][0]["kind"] == "self"
    assert first.manifest["recipe"]["domains"]["all"]["sources"][0]["temperature"] == 0.8


FREE = '[[source]]\nkind = "self"\nfree = true\nn_predict = 40\n'


def test_the_model_writes_freely(model: Model) -> None:
    first = build_corpus(recipe_of(FREE), model, tokens=300)
    assert first.text == build_corpus(recipe_of(FREE), model, tokens=300).text
    assert first.text != build_corpus(recipe_of(FREE), model, tokens=300, seed=2).text
    assert abs(first.n_tokens - 300) < 300 * SHARE_TOLERANCE + 16
    assert first.manifest["text"]["documents"] >= 7
    assert "<|endoftext|>" not in first.text
    (source,) = first.manifest["domains"][0]["sources"]
    assert (source["kind"], source["name"]) == ("self", "the model itself (freely)")


def test_free_text_begins_after_the_token_that_begins_a_text(model: Model) -> None:
    seen = set()

    class Other(_Model):
        bos_token = -1

        def generate(self, prompt: np.ndarray, **settings: Any) -> object:
            (token,) = prompt
            kept = (settings["temperature"], settings["top_k"], settings["top_p"])
            seen.add((int(token), *kept))
            return model.generate(prompt, **settings)

    build_corpus(recipe_of(FREE, allow_short=True), Other(model), tokens=100)
    assert seen == {(model.eos_token, 1.0, 0, 1.0)}
    Other.eos_token = -1  # type: ignore[attr-defined]
    with pytest.raises(CorpusError, match="no token that begins or ends a text"):
        build_corpus(recipe_of(FREE), Other(model), tokens=100)


def test_few_free_texts_are_thrown_away(model: Model) -> None:
    class Counting(_Model):
        n_texts = 0

        def generate(self, *args: Any, **settings: Any) -> object:
            Counting.n_texts += 1
            return model.generate(*args, **settings)

    recipe = recipe_of(FREE.replace("40", "200"), allow_short=True)
    built = build_corpus(recipe, Counting(model), tokens=310)
    assert abs(built.n_tokens - 310) < 20
    assert Counting.n_texts <= built.manifest["text"]["documents"] + 3


def test_free_text_is_found_in_the_journal(model: Model, tmp_path: Path) -> None:
    class Silent(_Model):
        def generate(self, *args: object, **options: object) -> object:
            raise AssertionError

    path = tmp_path / "journal"
    journal = GenerationJournal(path, resume=False)
    whole = build_corpus(recipe_of(FREE), model, tokens=200, journal=journal)
    again = GenerationJournal(path, resume=True)
    assert (
        build_corpus(recipe_of(FREE), Silent(model), tokens=200, journal=again).text == whole.text
    )


def test_a_model_that_writes_nothing_is_an_error(model: Model) -> None:
    class Mute(_Model):
        def generate(self, *args: object, **options: object) -> object:
            return np.array([model.eos_token], dtype=np.int32)

    with pytest.raises(CorpusError, match="60 were unusable, 60 of them: the model wrote nothing"):
        build_corpus(recipe_of(FREE), Mute(model), tokens=200)


def test_prompts_come_from_a_topic(model: Model) -> None:
    body = '[[source]]\nkind = "self"\ntopic = "reasoning"\nn_predict = 16\nsystem = "Think."\n'
    corpus = build_corpus(recipe_of(body, allow_short=True), model, tokens=200)
    assert corpus.text.count("<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n") >= 1


def test_an_interrupted_run_goes_on(model: Model, tmp_path: Path) -> None:
    recipe = recipe_of(SELF, allow_short=True)
    whole = build_corpus(recipe, model, tokens=120)
    path = tmp_path / "journal"

    class Counting(_Model):
        left = 2

        def generate(self, *args: object, **options: object) -> object:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return model.generate(*args, **options)

    journal = GenerationJournal(path, resume=False)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(recipe, Counting(model), tokens=120, journal=journal)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    # A line that a crash tore is dropped.
    path.write_bytes(b"\n".join([*lines, lines[0][:30]]))
    resumed = Counting(model)
    resumed.left = 1000
    journal = GenerationJournal(path, resume=True)
    assert build_corpus(recipe, resumed, tokens=120, journal=journal).text == whole.text
    n_answers = len(path.read_bytes().splitlines())
    assert 1000 - resumed.left == n_answers - 2


def test_what_the_model_refuses_is_an_error(model: Model) -> None:
    class Refusing(_Model):
        def generate(self, *args: object, **options: object) -> object:
            raise ValueError("the context is too small")

    with pytest.raises(CorpusError, match="cannot answer: the context is too small"):
        build_corpus(recipe_of(SELF), Refusing(model), tokens=100)
