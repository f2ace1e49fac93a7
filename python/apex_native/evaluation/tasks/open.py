"""A task file by path or address, whatever its format."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from apex_native.errors import DataError
from apex_native.evaluation.tasks.binary import parse_questions, question_items
from apex_native.evaluation.tasks.hellaswag import parse_hellaswag
from apex_native.evaluation.tasks.hub import HUB_PREFIX, fetch_from_hub
from apex_native.evaluation.tasks.items import Item, TaskFile, TaskKind
from apex_native.evaluation.tasks.records import parse_jsonl, parse_parquet
from apex_native.evaluation.tasks.winogrande import parse_winogrande

__all__ = ["MAX_FILE_BYTES", "TaskSpec", "open_task"]

MAX_FILE_BYTES = 1 << 30
"""Far above any task file: MMLU's is 9 MB, HellaSwag's 7."""

_JSONL = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task to evaluate: its kind, a path or hf:// address, and the name it gets in results.

    Without a name: the kind, or for multiple choice the file's name without its end.
    """

    kind: TaskKind
    source: str
    name: str = ""

    @classmethod
    def parse(cls, kind: TaskKind, text: str) -> TaskSpec:
        """``FILE`` or ``name=FILE``."""
        name, separator, source = text.partition("=")
        if not separator or "/" in name or Path(text).exists():
            return cls(kind, text)
        if not source:
            raise DataError(f"'{text}' names no file; write FILE or NAME=FILE")
        return cls(kind, source, name)


def open_task(spec: TaskSpec, *, upstream: bool = False) -> TaskFile:
    """Read and check a whole task file.

    ``.jsonl`` and ``.parquet`` hold records (`records`); anything else is llama-perplexity's file
    of the kind. upstream=True reads it as llama-perplexity does, bugs included. Raises DataError
    with the place of what is wrong, OSError where the file cannot be read.
    """
    is_address = spec.source.startswith(HUB_PREFIX)
    path = fetch_from_hub(spec.source) if is_address else Path(spec.source)
    data = _read(path)
    source = os.fspath(path.name)
    return TaskFile(
        kind=spec.kind,
        name=spec.name or _default_name(spec.kind, path),
        path=spec.source,
        sha256=hashlib.sha256(data).hexdigest(),
        items=tuple(_parse(spec.kind, path.suffix.lower(), data, source, upstream=upstream)),
    )


def _default_name(kind: TaskKind, path: Path) -> str:
    return path.stem if kind is TaskKind.MULTIPLE_CHOICE else kind.value


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path}: has {size:,} bytes; this is no task file")
    data = path.read_bytes()
    if not data:
        raise DataError(f"{path}: is empty; expected a task file")
    return data


def _parse(kind: TaskKind, suffix: str, data: bytes, source: str, *, upstream: bool) -> list[Item]:
    if suffix == ".parquet":
        return parse_parquet(data, source, kind)
    if suffix in _JSONL:
        return parse_jsonl(data, source, kind)
    if kind is TaskKind.HELLASWAG:
        return list(parse_hellaswag(data, source, upstream=upstream))
    if kind is TaskKind.WINOGRANDE:
        return list(parse_winogrande(data, source, upstream=upstream))
    return list(question_items(parse_questions(data, source), source, upstream=upstream))
