"""The sources a recipe may name, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from apex_native.corpus.builtin import require_topic
from apex_native.corpus.toml_reader import TomlReader
from apex_native.errors import CorpusError

__all__ = ["BuiltinSpec", "FilesSpec", "HubSpec", "RowFields", "SelfSpec", "SourceSpec",
           "read_source"]  # fmt: skip

FORMATS = ("auto", "text", "jsonl", "parquet")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class BuiltinSpec:
    """Text that ships with the package: `topic` is one of `builtin_topics`."""

    kind: ClassVar[str] = "builtin"
    topic: str
    share: float | None = None

    @property
    def label(self) -> str:
        """What the source is called in messages."""
        return self.topic


@dataclass(frozen=True, slots=True)
class RowFields:
    """Which columns of a row make a document: a text, or a list of messages (and tools)."""

    text: str = "text"
    messages: str = ""
    tools: str = ""


@dataclass(frozen=True, slots=True)
class FilesSpec:
    """Files, folders and glob patterns, relative to the recipe's folder.

    format "auto" goes by the suffix: .jsonl and .parquet hold rows, all else is text. In folders
    and patterns only the `suffixes` count, by default those of `files.KNOWN_SUFFIXES`.
    """

    kind: ClassVar[str] = "files"
    paths: tuple[str, ...]
    format: str = "auto"
    suffixes: tuple[str, ...] = ()
    fields: RowFields = RowFields()
    share: float | None = None

    @property
    def label(self) -> str:
        """What the source is called in messages."""
        return ", ".join(self.paths)


@dataclass(frozen=True, slots=True)
class HubSpec:
    """Files of a dataset on the Hugging Face hub at one commit."""

    kind: ClassVar[str] = "hub"
    repo: str
    revision: str
    files: tuple[str, ...]
    format: str = "auto"
    fields: RowFields = RowFields()
    share: float | None = None

    @property
    def label(self) -> str:
        """What the source is called in messages."""
        return f"{self.repo}@{self.revision[:8]}"


@dataclass(frozen=True, slots=True)
class SelfSpec:
    """Text that the model writes itself, answering prompts or freely.

    prompts: questions of the recipe's own; else the first questions of a built-in `topic`. free:
    no question, the model begins a text; by default it then draws from all of its distribution.
    Sampling: at most n_predict tokens for an answer or text, temperature, top_k (0: all) and top_p
    as llama.cpp's samplers define them.
    """

    kind: ClassVar[str] = "self"
    topic: str = ""
    prompts: tuple[str, ...] = ()
    system: str = ""
    n_predict: int = 384
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    share: float | None = None
    free: bool = False

    @property
    def label(self) -> str:
        """What the source is called in messages."""
        asked = "freely" if self.free else self.topic or "given prompts"
        return f"the model itself ({asked})"


SourceSpec = BuiltinSpec | FilesSpec | HubSpec | SelfSpec


def read_source(reader: TomlReader) -> SourceSpec:
    """A source from its table in a recipe; CorpusError names the key at fault."""
    kind = reader.text("kind", among=("builtin", "files", "hub", "self"))
    share = reader.number("share", least=0, most=1) if "share" in reader else None
    read = {"builtin": _builtin, "files": _files, "hub": _hub, "self": _self}[kind]
    spec = read(reader, share)
    reader.done()
    return spec


def _builtin(reader: TomlReader, share: float | None) -> SourceSpec:
    return BuiltinSpec(_topic(reader), share)


def _topic(reader: TomlReader) -> str:
    topic = reader.text("topic")
    try:
        require_topic(topic)
    except CorpusError as error:
        raise reader.error("topic", f"is unknown: {error}") from None
    return topic


def _files(reader: TomlReader, share: float | None) -> SourceSpec:
    suffixes = reader.texts("suffixes", ())
    for suffix in suffixes:
        if not suffix.startswith("."):
            raise reader.error("suffixes", f"must begin with a dot, found '{suffix}'")
    return FilesSpec(
        paths=reader.texts("paths"),
        format=reader.text("format", "auto", among=FORMATS),
        suffixes=suffixes,
        fields=_fields(reader),
        share=share,
    )


def _hub(reader: TomlReader, share: float | None) -> SourceSpec:
    repo, revision = reader.text("repo"), reader.text("revision")
    if not _COMMIT.fullmatch(revision):
        raise reader.error(
            "revision",
            f"must be a commit of 40 hexadecimal digits, found '{revision}'; a branch or tag can "
            "move, and then the same recipe would give another text",
        )
    return HubSpec(
        repo=repo,
        revision=revision,
        files=reader.texts("files"),
        format=reader.text("format", "auto", among=FORMATS),
        fields=_fields(reader),
        share=share,
    )


def _fields(reader: TomlReader) -> RowFields:
    if "field" in reader and "messages" in reader:
        raise reader.error("messages", "stands beside 'field'; a row is one or the other")
    return RowFields(
        text=reader.text("field", "text"),
        messages=reader.text("messages", ""),
        tools=reader.text("tools", ""),
    )


def _self(reader: TomlReader, share: float | None) -> SourceSpec:
    free = reader.flag("free", default=False)
    asked = [key for key in ("topic", "prompts", "system") if key in reader]
    if free and asked:
        raise reader.error(asked[0], "stands beside 'free'; who writes freely is asked nothing")
    if not free and ("topic" in reader) == ("prompts" in reader):
        raise reader.error("topic", "or 'prompts' must be given, one of them, or free = true")
    return SelfSpec(
        topic=_topic(reader) if "topic" in reader else "",
        prompts=reader.texts("prompts") if "prompts" in reader else (),
        system=reader.text("system", ""),
        n_predict=reader.integer("n_predict", 384, least=1),
        temperature=reader.number("temperature", 1 if free else 0.8, least=0, most=10),
        top_k=reader.integer("top_k", 0 if free else 40, least=0),
        top_p=reader.number("top_p", 1 if free else 0.95, least=0, most=1),
        share=share,
        free=free,
    )
