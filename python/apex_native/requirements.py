"""What work needs of a model, asked before anything loads: one table, one check, one sentence.

llama.cpp answers what a model can do, in a trial load without weights (`model_traits`); what is
missing is said by name. Where the trial ends in a crash, only the trial's process ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from apex_native._native import core, forward_log
from apex_native.errors import ApexError, ModelError
from apex_native.hub import local_gguf
from apex_native.interrupt import run_interruptible

__all__ = [
    "Loaded",
    "ModelTraits",
    "Work",
    "look_at_together",
    "model_traits",
    "require_able",
    "require_traits",
]


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a model can do.

    vocabulary: tokens have texts. next_token: it gives the next token's logits from left to
    right, no encoder before it. encoder, decoder: it has one. pooled: made to give one vector
    for a text.
    """

    vocabulary: bool
    encoder: bool
    decoder: bool
    next_token: bool
    pooled: bool

    @property
    def kind(self) -> str:
        """What to call such a model."""
        if self.encoder:
            return "an encoder–decoder model" if self.decoder else "an encoder"
        if not self.next_token:
            return "an embedding model" if self.pooled else "not a left-to-right model"
        return "a decoder"


class Work(Enum):
    """A use of a model: what it is called, and which traits it needs."""

    CALIBRATION = ("an importance matrix", ("vocabulary", "next_token"))
    CORPUS = ("a corpus", ("vocabulary",))
    GENERATION = ("text of the model's own", ("vocabulary", "next_token"))
    EVALUATION = ("an evaluation", ("vocabulary", "next_token"))
    TASKS = ("a task", ("vocabulary", "next_token"))
    SPEED = ("a measurement of its speed", ("next_token",))

    def __init__(self, title: str, needs: tuple[str, ...]) -> None:
        self.title = title
        self.needs = needs


def model_traits(path: str | os.PathLike[str]) -> ModelTraits:
    """What a model can do, in a second at most; only its header is read.

    Raises GgufError where the file is damaged, incomplete or no model, ModelError where llama.cpp
    refuses it or would end the process.
    """
    name = os.fsencode(local_gguf(path))
    stop = core.StopFlag()
    try:
        found = run_interruptible(lambda: core.model_traits(name, stop=stop), stop.set)
    finally:
        forward_log()
    return ModelTraits(**found)


def require_able(path: str | os.PathLike[str] | None, work: Work) -> None:
    """Raise ModelError where a model file cannot do this work, naming what it lacks.

    None: a model that has no file is asked when it is loaded.
    """
    if path is not None:
        _require(os.fspath(path), model_traits(path), work)


def look_at_together(paths: Iterable[str | os.PathLike[str] | None], n_threads: int) -> None:
    """Make the trial loads of several files side by side; the answers are kept for `require_able`.

    A vocabulary of 250,000 tokens takes a second of one processor. A file whose trial fails is
    tried again, and its error raised, when `require_able` asks.
    """
    names = list(dict.fromkeys(os.fsencode(local_gguf(path)) for path in paths if path is not None))
    stop = core.StopFlag()

    def look(name: bytes) -> None:
        with suppress(ApexError):
            core.model_traits(name, stop=stop)

    def look_at_all() -> None:
        # No llama.cpp in this process meanwhile: its locks would be copied into the children.
        with ThreadPoolExecutor(max(1, min(n_threads, len(names)))) as pool:
            list(pool.map(look, names))

    try:
        run_interruptible(look_at_all, stop.set)
    finally:
        forward_log()


class Loaded(Protocol):
    """What is asked of a loaded model; `engine.Model` answers."""

    @property
    def path(self) -> str:
        """Where it was loaded from."""
        ...

    @property
    def traits(self) -> ModelTraits:
        """What it can do."""
        ...


def require_traits(model: Loaded, work: Work) -> None:
    """Raise ModelError where a loaded model cannot do this work."""
    _require(model.path, model.traits, work)


def _require(path: str, traits: ModelTraits, work: Work) -> None:
    for need in work.needs:
        if not getattr(traits, need):
            raise ModelError(f"{path}: {work.title} needs {_what(need, traits)}")


def _what(need: str, traits: ModelTraits) -> str:
    lacks: Mapping[str, str] = {
        "vocabulary": "a vocabulary, and this file has none; convert the model with its tokenizer",
        "next_token": "a model that gives the next token's logits, and this is "
        f"{traits.kind}; choose a language model",
    }
    return lacks[need]
