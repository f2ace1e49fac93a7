"""Conversations of several turns in English and Spanish.

A data file has one section per topic, turns under ``@user`` and ``@assistant``; ``@user?`` begins
an exchange that may be left out, so that a topic gives many conversations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from apex_native.corpus.builtin.rounds import rounds
from apex_native.corpus.builtin.templates import Filler, load_pools, load_sections
from apex_native.corpus.document import Document, Message

__all__ = ["dialogue_documents"]

KEEP_EXCHANGE = 0.7
"""How often an exchange that may be left out stays: two to four exchanges are usual."""

USE_SYSTEM_PROMPT = 0.3

_SYSTEM_PROMPTS = {
    "english": (
        "You are a helpful assistant.",
        "You are a patient and precise assistant. Answer in plain words and keep it short.",
        "Answer like an experienced colleague: practical, honest about what you do not know.",
        "You help people with everyday questions. Use lists where they make things clearer.",
        "You are an assistant on «person»'s phone. Today is «weekday».",
    ),
    "spanish": (
        "Eres un asistente útil.",
        "Eres un asistente paciente y preciso. Responde en español con palabras sencillas.",
        "Responde como una persona con experiencia: con consejos prácticos y sin rodeos.",
        "Ayudas con preguntas del día a día. Usa listas cuando aclaren la respuesta.",
        "Eres el asistente de «persona». Hoy es «dia».",
    ),
}


class _Exchange(NamedTuple):
    user: str
    assistant: str
    optional: bool


def dialogue_documents(language: str, rng: random.Random) -> Iterator[Document]:
    """Conversations in ``english`` or ``spanish`` without end."""
    topics = list(load_sections(f"chat_{language}.txt").values())
    pools = load_pools(f"pools_{language}.txt")
    for topic in rounds(topics, rng):
        filler = Filler(rng, pools)
        filler.declare(topic)
        messages: list[Message] = []
        if rng.random() < USE_SYSTEM_PROMPT:
            prompt = rng.choice(_SYSTEM_PROMPTS[language])
            messages.append({"role": "system", "content": filler.fill(prompt)})
        for exchange in _exchanges(topic):
            if exchange.optional and rng.random() >= KEEP_EXCHANGE:
                continue
            messages.append({"role": "user", "content": filler.fill_lines(exchange.user)})
            messages.append({"role": "assistant", "content": filler.fill_lines(exchange.assistant)})
        yield Document(messages=tuple(messages))


def _exchanges(topic: str) -> Iterator[_Exchange]:
    parts = re.split(r"^@(user\??|assistant)\n", topic, flags=re.MULTILINE)[1:]
    turns = list(zip(parts[::2], parts[1::2], strict=True))
    for (asks, question), (answers, answer) in zip(turns[::2], turns[1::2], strict=True):
        if not asks.startswith("user") or answers != "assistant":
            raise ValueError(f"turns must alternate, found {asks} and {answers}: {question[:60]!r}")
        yield _Exchange(question.rstrip("\n"), answer.rstrip("\n"), asks.endswith("?"))
