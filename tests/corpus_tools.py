"""A small tokenizer with a chat template, and recipes written in a line."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from apex_native.corpus import Corpus, Recipe, build_corpus, parse_recipe

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TOKEN = re.compile(r"<\|\w+\|>|</?s>|\w+|\s|[^\w\s]")


class WordTokenizer:
    """A token for every word, mark, blank and <|special|>; enough where only counts matter."""

    n_vocab = 1 << 20
    bos_token = 1
    eos_token = 2

    def __init__(self, chat_template: str | None = CHATML) -> None:
        self.chat_template = chat_template

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"words").hexdigest()

    def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool
    ) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        assert parse_special
        words = ["<s>"] * add_special + _TOKEN.findall(text)
        codes = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:2]) for word in words]
        return np.array(codes, dtype=np.int32)

    def token_text(self, token: int) -> str:
        return {1: "<s>", 2: "</s>"}[token]


def recipe_of(body: str, folder: Path = Path(), **settings: object) -> Recipe:
    """One domain `all` with the sources in body, each begun by ``[[source]]``."""
    lines = [f"{key} = {str(value).lower()}" for key, value in settings.items()]
    sources = body.replace("[[source]]", "[[domains.all.sources]]")
    text = "\n".join(
        ['schema_version = 1\nname = "test"', *lines, "[domains.all]\nshare = 1.0", sources]
    )
    return parse_recipe(text, origin="test.toml", folder=folder)


def built_from_files(folder: Path, tokens: int, keys: str, **settings: object) -> Corpus:
    """A text from one source of kind files with these keys."""
    recipe = recipe_of(f'[[source]]\nkind = "files"\n{keys}', folder, **settings)
    return build_corpus(recipe, WordTokenizer(), tokens=tokens)


def prose(n_words: int, seed: int) -> str:
    """Words that repeat nothing: no two texts are near-duplicates."""
    rng = np.random.default_rng(seed)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 6)) for _ in range(n_words)]
    lines = [" ".join(words[i : i + 12]) for i in range(0, n_words, 12)]
    return "\n".join(lines) + "\n"
