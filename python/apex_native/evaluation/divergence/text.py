"""The text as chunks of tokens, cut as llama-perplexity cuts it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from apex_native.engine import Model, Tokens
from apex_native.errors import DataError
from apex_native.results import TextData
from apex_native.text_file import read_text_file

__all__ = ["Chunks", "Text", "chunk_text", "hash_tokens", "read_text"]

MIN_CONTEXT = 4
"""Below, no position is scored."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text and the name results give it."""

    name: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Tokens of whole chunks, int32 (n_chunks * ctx,), and what results say of them."""

    tokens: Tokens
    data: TextData

    @property
    def n_scored(self) -> int:
        """Scored positions of a chunk."""
        return self.data.ctx - 1 - self.data.ctx // 2


def read_text(path: str | os.PathLike[str]) -> Text:
    """A UTF-8 file without its last line break, as llama.cpp's programs read one.

    Raises DataError where it cannot be read or is no text.
    """
    return Text(Path(path).name, read_text_file(path))


def chunk_text(
    text: Text,
    model: Model,
    *,
    ctx: int,
    n_chunks: int | None,
    parse_special: bool,
    n_ctx_train: int | None = None,
) -> Chunks:
    """Tokenize once, with the tokens the model wants around a text, and cut; the rest is dropped.

    n_ctx_train: for a model loaded with vocab_only, which does not know its own. Raises DataError
    where the text is too short, ValueError for a ctx or n_chunks out of range.
    """
    if ctx < MIN_CONTEXT:
        raise ValueError(f"ctx: expected at least {MIN_CONTEXT} tokens, found {ctx}")
    if n_chunks is not None and n_chunks < 1:
        raise ValueError(f"chunks: expected at least 1, found {n_chunks}")
    longest = model.n_ctx_train if n_ctx_train is None else n_ctx_train
    if ctx > longest:
        raise DataError(
            f"a context of {ctx} tokens is longer than the {longest} that {model.path} "
            "was made for; choose a smaller `ctx`"
        )
    tokens = model.tokenize(text.content, add_special=True, parse_special=parse_special)
    available = len(tokens) // ctx
    if available < 1:
        raise DataError(
            f"the text {text.name} is shorter than one chunk (tokens: {len(tokens)} of {ctx}); "
            "give a longer text or a smaller `ctx`"
        )
    if n_chunks is not None and n_chunks > available:
        raise DataError(
            f"the text {text.name} has {available} chunks of {ctx} tokens, not {n_chunks}; "
            "ask for fewer `chunks` or give a longer text"
        )
    used = n_chunks or available
    data = TextData(
        name=text.name,
        sha256=hashlib.sha256(text.content.encode()).hexdigest(),
        n_tokens=len(tokens),
        n_chunks=used,
        ctx=ctx,
        parse_special=parse_special,
        add_bos=model.add_bos,
        tokens_sha256=hash_tokens(tokens[: used * ctx]),
    )
    return Chunks(np.ascontiguousarray(tokens[: used * ctx]), data)


def hash_tokens(tokens: Tokens) -> str:
    """sha256 of tokens as little-endian int32."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i4").tobytes()).hexdigest()
