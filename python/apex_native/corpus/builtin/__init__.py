"""The text that ships with the package: written by us, put together by a seeded generator.

``builtin_documents("chat.english", rng)`` never ends; the same seed gives the same documents. It
says the same thing twice only when it has gone through all it has, and then with other words.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator
from functools import partial

from apex_native.corpus.builtin.code import code_documents
from apex_native.corpus.builtin.dialogue import dialogue_documents
from apex_native.corpus.builtin.reasoning import reasoning_documents
from apex_native.corpus.builtin.tools import tool_documents
from apex_native.corpus.document import Document
from apex_native.errors import CorpusError

__all__ = ["builtin_documents", "builtin_topics", "require_topic"]

_TOPICS: dict[str, Callable[[random.Random], Iterator[Document]]] = {
    "chat.english": partial(dialogue_documents, "english"),
    "chat.spanish": partial(dialogue_documents, "spanish"),
    "code.python": partial(code_documents, "python"),
    "code.javascript": partial(code_documents, "javascript"),
    "code.c": partial(code_documents, "c"),
    "code.rust": partial(code_documents, "rust"),
    "reasoning": reasoning_documents,
    "tools": tool_documents,
}


def builtin_topics() -> tuple[str, ...]:
    """What a recipe may ask for as ``topic``."""
    return tuple(_TOPICS)


def require_topic(topic: str) -> None:
    """Raise CorpusError, with the nearest name, for a topic there is none of."""
    if topic not in _TOPICS:
        near = difflib.get_close_matches(topic, _TOPICS, n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_TOPICS)}"
        raise CorpusError(f"there is no built-in topic '{topic}'; {hint}")


def builtin_documents(topic: str, rng: random.Random) -> Iterator[Document]:
    """Documents of a topic without end; CorpusError for an unknown one."""
    require_topic(topic)
    return _TOPICS[topic](rng)
