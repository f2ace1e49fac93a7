"""From what a recipe says to something that gives documents."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from apex_native.corpus.builtin import builtin_documents
from apex_native.corpus.chat import ChatRenderer
from apex_native.corpus.document import Document
from apex_native.corpus.files import FileSource, find_files
from apex_native.corpus.hub import fetch_dataset
from apex_native.corpus.protocols import GeneratingModel, Tokenizer
from apex_native.corpus.recipe import Recipe
from apex_native.corpus.self_text import GenerationJournal, SelfSource
from apex_native.corpus.source_specs import BuiltinSpec, FilesSpec, HubSpec, SelfSpec, SourceSpec
from apex_native.errors import CorpusError

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Gives documents and says what it read and left out."""

    skipped: Counter[str]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Files read: name, bytes, sha256."""

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Documents in an order that the generator decides."""


class _BuiltinSource:
    def __init__(self, spec: BuiltinSpec) -> None:
        self._topic = spec.topic
        self.skipped: Counter[str] = Counter()
        self.inputs: list[dict[str, Any]] = []

    def documents(self, rng: random.Random) -> Iterator[Document]:
        return builtin_documents(self._topic, rng)


def open_source(
    spec: SourceSpec,
    *,
    recipe: Recipe,
    max_chars: int,
    model: Tokenizer,
    renderer: ChatRenderer,
    journal: GenerationJournal | None,
) -> Source:
    """The source that a recipe describes; CorpusError where it cannot be had."""
    match spec:
        case BuiltinSpec():
            return _BuiltinSource(spec)
        case FilesSpec():
            files = find_files(spec, recipe.folder)
            return FileSource(files, spec.format, spec.fields, max_chars)
        case HubSpec():
            return FileSource(fetch_dataset(spec), spec.format, spec.fields, max_chars)
        case SelfSpec():
            if not isinstance(model, GeneratingModel):
                raise CorpusError(
                    f"{spec.label}: a model that generates is needed, found "
                    f"{type(model).__name__}; load it with its weights"
                )
            return SelfSource(spec, model, renderer, journal)
