"""Documents from files and folders: text and code, JSON lines, parquet."""

from __future__ import annotations

import glob
import hashlib
import json
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.corpus.blocks import block_count, block_lines
from apex_native.corpus.document import Document, cut_text
from apex_native.corpus.parquet import parquet_rows, row_group_count
from apex_native.corpus.rows import RowError, row_documents
from apex_native.corpus.source_specs import FilesSpec, RowFields
from apex_native.errors import CorpusError

__all__ = ["KNOWN_SUFFIXES", "FileSource", "InputFile", "find_files"]

_SUFFIXES = """
    .txt .md .rst .tex .jsonl .parquet
    .py .pyi .js .mjs .cjs .jsx .ts .tsx .c .h .cc .cpp .cxx .hpp .cu .cuh .rs .go .java .kt .scala
    .rb .php .cs .swift .m .lua .pl .r .jl .hs .ml .ex .erl .clj .sh .bash .sql .zig .nim .dart
    .html .css .json .toml .yaml .yml .proto .cmake
"""

KNOWN_SUFFIXES = frozenset(_SUFFIXES.split())
"""What counts in folders unless a recipe says otherwise: prose, code, rows."""

N_OPEN = 16
"""Blocks drawn from in turn, so that a text does not come out of one file only."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file and what the manifest calls it; `named` if the recipe names it itself."""

    name: str
    path: Path
    named: bool = False


class FileSource:
    """Draws documents from files in a seeded order; says what it read and what it left out."""

    def __init__(
        self, files: Sequence[InputFile], format: str, fields: RowFields, max_chars: int
    ) -> None:
        """Draw from files; texts are cut into pieces of at most max_chars."""
        self._files = files
        self._format = format
        self._fields = fields
        self._max_chars = max_chars
        self._hashes: dict[str, dict[str, Any]] = {}
        self.skipped: Counter[str] = Counter()

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The files read so far: name, bytes and sha256, by name."""
        return [self._hashes[name] for name in sorted(self._hashes)]

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Documents until there are no more; CorpusError for a named file that cannot be used."""
        units = [(file, index) for file in self._files for index in range(self._units(file))]
        rng.shuffle(units)
        waiting = iter(units)
        opened: deque[Iterator[Document]] = deque()
        while True:
            while len(opened) < N_OPEN:
                unit = next(waiting, None)
                if unit is None:
                    break
                opened.append(self._unit_documents(*unit, rng))
            if not opened:
                return
            current = opened.popleft()
            document = next(current, None)
            if document is not None:
                opened.append(current)
                yield document

    def _format_of(self, file: InputFile) -> str:
        if self._format != "auto":
            return self._format
        return {".jsonl": "jsonl", ".parquet": "parquet"}.get(file.path.suffix.lower(), "text")

    def _columns(self) -> list[str]:
        names = (self._fields.messages or self._fields.text, self._fields.tools)
        return [name for name in names if name]

    def _units(self, file: InputFile) -> int:
        try:
            if self._format_of(file) == "parquet":
                return row_group_count(file.path, self._columns())
            size = file.path.stat().st_size
        except OSError as error:
            raise CorpusError(f"{file.path}: {error.strerror}; check the path") from error
        if not size and file.named:
            raise CorpusError(f"{file.path} is empty; take it out of the recipe")
        return block_count(size)

    def _unit_documents(
        self, file: InputFile, index: int, rng: random.Random
    ) -> Iterator[Document]:
        kind = self._format_of(file)
        self._remember(file)
        if kind == "parquet":
            # In the order of the file: a row group is read piece by piece.
            for row in parquet_rows(file.path, index, self._columns()):
                yield from self._row(row)
            return
        documents = list(self._lines(file, index) if kind == "jsonl" else self._text(file, index))
        rng.shuffle(documents)
        yield from documents

    def _text(self, file: InputFile, index: int) -> Iterator[Document]:
        text = self._decoded(file, index, b"".join(block_lines(file.path, index)))
        for piece in cut_text(text, self._max_chars):
            yield Document(text=piece, can_be_cut=True)

    def _lines(self, file: InputFile, index: int) -> Iterator[Document]:
        for line in block_lines(file.path, index):
            text = self._decoded(file, index, line)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                self.skipped["the line is no JSON"] += 1
                continue
            yield from self._row(row)

    def _row(self, row: Any) -> Iterator[Document]:
        try:
            yield from row_documents(row, self._fields, self._max_chars)
        except RowError as error:
            self.skipped[str(error)] += 1

    def _decoded(self, file: InputFile, index: int, content: bytes) -> str:
        """UTF-8 with line ends of one kind; "" (counted) for what a folder holds besides."""
        try:
            text = content.decode("utf-8-sig" if index == 0 else "utf-8")
            problem = "holds a zero byte" if "\0" in text else ""
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8: byte 0x{content[error.start]:02x}"
        if not problem:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        if file.named:
            raise CorpusError(f"{file.path} {problem}; convert it, or take it out of the recipe")
        self.skipped["not UTF-8 text"] += 1
        return ""

    def _remember(self, file: InputFile) -> None:
        if file.name not in self._hashes:
            with file.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = file.path.stat().st_size
            self._hashes[file.name] = {"name": file.name, "bytes": size, "sha256": digest}


def find_files(spec: FilesSpec, folder: Path) -> list[InputFile]:
    """The files a source names, sorted and each once; CorpusError where there are none."""
    suffixes = frozenset(suffix.lower() for suffix in spec.suffixes) or KNOWN_SUFFIXES
    found: dict[Path, InputFile] = {}
    for name in spec.paths:
        path = folder / name
        if path.is_file():
            found[path] = InputFile(name, path, named=True)
            continue
        candidates = _candidates(path, name)
        wanted = [p for p in candidates if p.suffix.lower() in suffixes and p.is_file()]
        if not wanted:
            kinds = ", ".join(sorted(spec.suffixes)) or "the known suffixes"
            raise CorpusError(f"{path}: no file there with {kinds}; check 'paths' and 'suffixes'")
        for file in wanted:
            found.setdefault(file, InputFile(_relative(file, folder), file))
    return sorted(found.values(), key=lambda file: file.name)


def _candidates(path: Path, name: str) -> list[Path]:
    if path.is_dir():
        # Hidden folders hold what tools keep for themselves, such as .git.
        inside = path.rglob("*")
        return [p for p in inside if not any(x.startswith(".") for x in p.relative_to(path).parts)]
    if glob.has_magic(name):
        return [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207  (absolute)
    raise CorpusError(f"{path}: no such file or folder; 'paths' begin at the recipe's folder")


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
