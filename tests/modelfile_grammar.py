"""Ollama's grammar of Modelfiles, read from its documents and parser, to parse ours by.

docs/modelfile.mdx of ollama/ollama at 071c82b and parser/parser.go at 00dc3af (2026): lines of
``INSTRUCTION arguments``, in any case, ``#`` for comments; arguments end at the line's end, or at
the closing quotes of a text in one or three double quotes; parameters have the types below.
"""

from __future__ import annotations

import re

INSTRUCTIONS = {
    *("from", "parameter", "template", "system", "adapter", "license", "message", "requires"),
    *("renderer", "parser", "draft"),
}

PARAMETERS = {
    "num_ctx": int,
    "repeat_last_n": int,
    "repeat_penalty": float,
    "temperature": float,
    "seed": int,
    "stop": str,
    "num_predict": int,
    "draft_num_predict": int,
    "top_k": int,
    "top_p": float,
    "min_p": float,
}

_WORD = re.compile(r"([A-Za-z]+)[ \t]+")
_TEXT = re.compile(r'"""(.*?)"""[ \t]*(?:\n|$)|"([^"\n]*)"[ \t]*(?:\n|$)|([^\n]+)(?:\n|$)', re.S)


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(instruction in lower case, its argument); ValueError where Ollama would refuse."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        blank = re.compile(r"[ \t]*(#[^\n]*)?(\n|$)").match(text, position)
        if blank is not None and blank.end() > position:
            position = blank.end()
            continue
        word = _WORD.match(text, position)
        if word is None or word[1].lower() not in INSTRUCTIONS:
            raise ValueError(f"no instruction: {text[position : position + 40]!r}")
        position = word.end()
        name = word[1].lower()
        if name == "parameter":
            key = re.compile(r"(\w+)[ \t]+").match(text, position)
            if key is None or key[1] not in PARAMETERS:
                raise ValueError(f"no parameter: {text[position : position + 40]!r}")
            position, name = key.end(), key[1]
        value = _TEXT.match(text, position)
        if value is None or (value[3] or "").startswith('"'):
            raise ValueError(f"no end of {name}'s value: {text[position : position + 40]!r}")
        position = value.end()
        argument = next(group for group in value.groups() if group is not None)
        if name in PARAMETERS:
            PARAMETERS[name](argument)
        found.append((name, argument))
    if "from" not in [name for name, _ in found]:
        raise ValueError("no FROM line")
    return found
