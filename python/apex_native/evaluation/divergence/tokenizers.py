"""Do two models read a text as the same tokens? Asked of the text itself, and of their files.

A model that was converted with another pre-tokenizer has the same vocabulary and still reads
another text: scored on the reference's tokens it would look perfect, which it is not.
"""

from __future__ import annotations

import logging

import numpy as np

from apex_native.engine import Model, Tokens
from apex_native.errors import ApexError, DataError
from apex_native.evaluation.divergence.text import Text
from apex_native.gguf import GgufFile, open_gguf

__all__ = ["require_same_tokens", "tokenizer_differences"]

_logger = logging.getLogger("apex_native.evaluation")

_PREFIX = "tokenizer."
_TEMPLATE = "tokenizer.chat_template"
"""Writes conversations: compared where the text is one, which `parse_special` says."""


def require_same_tokens(
    tokens: Tokens, source: str, model: Model, text: Text, *, parse_special: bool
) -> None:
    """DataError where the model reads the text as other tokens than those the source gave.

    Where the tokens are the same and the files' tokenizers differ all the same, a warning by name.
    """
    own = model.tokenize(text.content, add_special=True, parse_special=parse_special)
    differences = tokenizer_differences(source, model.path, with_template=parse_special)
    named = f" ({', '.join(differences)} differ)" if differences else ""
    if not np.array_equal(own[: len(tokens)], tokens):
        at = int(np.argmax(own[: len(tokens)] != tokens[: len(own)])) if len(own) else 0
        raise DataError(
            f"{model.path} reads the text {text.name} as other tokens than {source}, from token "
            f"{at} on{named}: its numbers would not be those of its own use; convert it again with "
            "the right tokenizer"
        )
    if differences:
        _logger.warning(
            "%s and %s: %s differ, though this text gives the same tokens",
            source,
            model.path,
            ", ".join(differences),
        )


def tokenizer_differences(first: str, second: str, *, with_template: bool = False) -> list[str]:
    """Keys of the tokenizer that two files store with other values; none for what is no file.

    with_template: the chat template too, which has no part in reading a text and decides what chat
    text a model is used on.
    """
    try:
        with open_gguf(first) as ours, open_gguf(second) as theirs:
            keys = sorted({*_keys(ours), *_keys(theirs)})
            if not with_template:
                keys = [key for key in keys if key != _TEMPLATE]
            return [key for key in keys if _stored(ours, key) != _stored(theirs, key)]
    except (ApexError, OSError):
        return []


def _keys(file: GgufFile) -> list[str]:
    return [key for key in file.facts.kv_sizes if key.startswith(_PREFIX)]


def _stored(file: GgufFile, key: str) -> bytes:
    return file.encoded_pair(key) if key in file.facts.kv_sizes else b""
