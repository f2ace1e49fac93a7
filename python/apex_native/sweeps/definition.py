"""A sweep as it is asked for: a reference, texts, tasks, matrices and candidates; a TOML file.

    reference = "model-bf16.gguf"

    [[texts]]
    file = "wiki.test.raw"
    chunks = 64

    [matrices.diverse]
    text = "diverse"
    seeds = [1, 2]

    [[candidates]]
    tier = ["i-quality", "i-compact"]
    matrix = "diverse"
    prior = ["auto", "none"]
    cache = ["f16", "q8_0"]

Lists in a table of candidates are a grid: every combination is a candidate. Paths are relative to
the file. Where it runs, on how many machines, is not part of it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_native.corpus.toml_reader import TomlReader
from apex_native.errors import DataError, ImatrixError, PlanError
from apex_native.evaluation.model_under_test import cache_type
from apex_native.evaluation.tasks import TaskKind
from apex_native.imatrix import parse_prior
from apex_native.imatrix.collect import DEFAULT_BATCH, DEFAULT_CONTEXT
from apex_native.plan import FileType, load_tier
from apex_native.types import GgmlType

__all__ = ["CandidateGrid", "MatrixDefinition", "ProbeGrid", "SweepDefinition", "TaskDefinition",
           "TextDefinition", "load_definition", "read_definition"]  # fmt: skip

BLOCK_CHUNKS = 16
"""Of a job: a fraction of a minute of a large model, and small beside a text of some 100 chunks."""

MATRIX_BLOCK_CHUNKS = 32
"""The same of an importance matrix, whose parts take hundreds of megabytes each."""

NO_MATRIX = "none"
_BASES = ("tier", "ftype", "like", "plan", "file")
_PATHS = ("like", "plan", "file")


@dataclass(frozen=True, slots=True)
class TextDefinition:
    """A text to score, and how it is cut; block: chunks of one job."""

    name: str
    path: Path
    ctx: int = 512
    chunks: int | None = None
    block: int = BLOCK_CHUNKS
    parse_special: bool = False
    router: bool = True
    noise_chunks: int | None = None


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A task file; n_tasks items of it, None for all."""

    name: str
    kind: TaskKind
    path: Path
    n_tasks: int | None = 400


@dataclass(frozen=True, slots=True)
class MatrixDefinition:
    """An importance matrix: a file, or one to collect on a text or a recipe of the corpus stage."""

    name: str
    file: Path | None = None
    text: str | None = None
    seed: int | None = None
    ctx: int = DEFAULT_CONTEXT
    chunks: int | None = None
    block: int = MATRIX_BLOCK_CHUNKS
    batch: int = DEFAULT_BATCH
    parse_special: bool = False


@dataclass(frozen=True, slots=True)
class CandidateGrid:
    """Every combination of one base (tier, ftype, like, plan or file) and the other choices.

    matrices are names of the sweep's. caches are pairs of types, keys first.
    """

    base: str
    values: tuple[str, ...]
    matrices: tuple[str, ...] = (NO_MATRIX,)
    priors: tuple[str, ...] = ("auto",)
    caches: tuple[tuple[str, str], ...] = (("f16", "f16"),)
    tensor_types: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class ProbeGrid:
    """Every kind of tensor of every layer alone in each of the types."""

    types: tuple[GgmlType, ...]
    matrix: str = NO_MATRIX


@dataclass(frozen=True, slots=True)
class SweepDefinition:
    """All of it."""

    reference: Path
    candidates: tuple[CandidateGrid, ...] = ()
    probes: tuple[ProbeGrid, ...] = ()
    texts: tuple[TextDefinition, ...] = ()
    tasks: tuple[TaskDefinition, ...] = ()
    matrices: Mapping[str, tuple[MatrixDefinition, ...]] = field(default_factory=dict)


def load_definition(path: str | os.PathLike[str]) -> SweepDefinition:
    """Read a file; DataError names the key, what was expected and what was found."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the sweep {path}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no TOML: {error}; see docs/guide/sweep.md") from None
    return read_definition(data, path.parent, str(path))


def read_definition(
    data: Mapping[str, Any], folder: Path = Path(), origin: str = "sweep"
) -> SweepDefinition:
    """The same of what a TOML file holds; paths are relative to folder."""
    reader = TomlReader(data, origin, error=DataError)
    if "reference" not in reader:
        what = 'is missing; name the model in 16 bits: reference = "model-bf16.gguf"'
        raise reader.error("reference", what)
    reference = folder / reader.text("reference")
    texts = tuple(_text(r, folder) for r in _tables(reader, "texts"))
    tasks = tuple(_task(r, folder) for r in _tables(reader, "tasks"))
    named = reader.tables("matrices") if "matrices" in reader else ()
    matrices = {name: _matrices(name, table, folder) for name, table in named}
    if NO_MATRIX in matrices:
        raise reader.error("matrices", f"has one named '{NO_MATRIX}', which stands for no matrix")
    candidates = tuple(_grid(r, folder, matrices) for r in _tables(reader, "candidates"))
    probes = tuple(_probes(r, matrices) for r in _tables(reader, "probes"))
    if not candidates and not probes:
        raise reader.error("candidates", "is missing, and so is probes; give at least one")
    if probes and not texts:
        raise reader.error("texts", "is missing, and probes are measured on one")
    if not texts and not tasks:
        raise reader.error("texts", "is missing, and so is tasks; give at least one to measure on")
    reader.done()
    for key, named_items in (("texts", texts), ("tasks", tasks)):
        _require_unique(reader, key, [item.name for item in named_items])
    return SweepDefinition(reference, candidates, probes, texts, tasks, matrices)


def _tables(reader: TomlReader, key: str) -> list[TomlReader]:
    return reader.table_list(key) if key in reader else []


def _require_unique(reader: TomlReader, key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise reader.error(key, f"has two named '{name}'; give one a name of its own")


def _text(reader: TomlReader, folder: Path) -> TextDefinition:
    path = folder / reader.text("file")
    text = TextDefinition(
        name=reader.text("name", path.name),
        path=path,
        ctx=reader.integer("ctx", 512, least=4),
        chunks=reader.integer("chunks", least=1) if "chunks" in reader else None,
        block=reader.integer("block", BLOCK_CHUNKS, least=1),
        parse_special=reader.flag("parse_special", default=False),
        router=reader.flag("router", default=True),
        noise_chunks=reader.integer("noise_chunks", least=0) if "noise_chunks" in reader else None,
    )
    reader.done()
    return text


def _task(reader: TomlReader, folder: Path) -> TaskDefinition:
    kind = TaskKind(reader.text("kind", among=[kind.value for kind in TaskKind]))
    path = folder / reader.text("file")
    n_tasks = reader.integer("n_tasks", 400, least=0)
    name = reader.text("name", path.stem)
    reader.done()
    return TaskDefinition(name, kind, path, n_tasks or None)


def _matrices(name: str, reader: TomlReader, folder: Path) -> tuple[MatrixDefinition, ...]:
    """One, or one for each seed."""
    if ("file" in reader) == ("text" in reader):
        raise reader.error("file", "or text must be given, one of the two")
    if "file" in reader:
        matrix = MatrixDefinition(name, file=folder / reader.text("file"))
        reader.done()
        return (matrix,)
    text = reader.text("text")
    if (folder / text).is_file():
        text = str(folder / text)
    seeds = reader.integers("seeds", least=0) if "seeds" in reader else (None,)
    options: dict[str, Any] = {
        "ctx": reader.integer("ctx", DEFAULT_CONTEXT, least=2),
        "chunks": reader.integer("chunks", least=1) if "chunks" in reader else None,
        "block": reader.integer("block", MATRIX_BLOCK_CHUNKS, least=1),
        "batch": reader.integer("batch", DEFAULT_BATCH, least=1),
        "parse_special": reader.flag("parse_special", default=False),
    }
    reader.done()
    return tuple(
        MatrixDefinition(
            name if len(seeds) == 1 else f"{name}-{seed}", text=text, seed=seed, **options
        )
        for seed in seeds
    )


def _grid(
    reader: TomlReader, folder: Path, matrices: Mapping[str, tuple[MatrixDefinition, ...]]
) -> CandidateGrid:
    given = [base for base in _BASES if base in reader]
    if len(given) != 1:
        raise reader.error(
            " or ".join(_BASES),
            f"must be given, one of them; found {' and '.join(given) or 'none'}",
        )
    base = given[0]
    values = reader.choices(base)
    values = tuple(_value(folder, base, value) for value in values)
    _require_known(reader, base, values)
    chosen = reader.choices("matrix", (NO_MATRIX,))
    for name in chosen:
        _require_matrix(reader, name, matrices)
    names = [m.name for name in chosen for m in matrices.get(name, ())]
    grid = CandidateGrid(
        base=base,
        values=values,
        matrices=(*([NO_MATRIX] if NO_MATRIX in chosen else []), *names),
        priors=_priors(reader),
        caches=tuple(_cache(reader, text) for text in reader.choices("cache", ("f16",))),
        tensor_types=reader.texts("tensor_types", ()),
        name=reader.text("name", ""),
    )
    reader.done()
    return grid


def _require_matrix(reader: TomlReader, name: str, known: Iterable[str]) -> None:
    if name != NO_MATRIX and name not in known:
        there = ", ".join(known) or "no [matrices.NAME] at all"
        raise reader.error(
            "matrix", f"must be {NO_MATRIX} or a matrix of this file ({there}), found '{name}'"
        )


def _priors(reader: TomlReader) -> tuple[str, ...]:
    priors = reader.choices("prior", ("auto",))
    for text in priors:
        try:
            parse_prior(text)
        except ImatrixError as error:
            raise reader.error("prior", str(error)) from None
    return priors


def _require_known(reader: TomlReader, base: str, values: Sequence[str]) -> None:
    """A tier or a mix of another spelling is a mistake, no combination that cannot be made."""
    for value in values:
        try:
            if base == "tier":
                load_tier(value)
            elif base == "ftype":
                FileType.parse(value)
        except PlanError as error:
            raise reader.error(base, str(error)) from None


def _value(folder: Path, base: str, value: str) -> str:
    """Relative to the sweep's file where it is a path; a tier may be a recipe's."""
    is_path = base in _PATHS or (base == "tier" and value.endswith(".toml"))
    return str(folder / value) if is_path else value


def _probes(reader: TomlReader, matrices: Mapping[str, tuple[MatrixDefinition, ...]]) -> ProbeGrid:
    try:
        types = tuple(GgmlType.parse(name) for name in reader.choices("types"))
    except ValueError as error:
        raise reader.error("types", str(error)) from None
    matrix = reader.text("matrix", NO_MATRIX)
    _require_matrix(reader, matrix, [m.name for some in matrices.values() for m in some])
    reader.done()
    return ProbeGrid(types, matrix)


def _cache(reader: TomlReader, text: str) -> tuple[str, str]:
    """``q8_0`` for keys and values, ``q8_0/q4_0`` for each."""
    key, _, value = text.partition("/")
    try:
        types = cache_type(key), cache_type(value or key)
    except ValueError as error:
        raise reader.error("cache", f"'{text}': {error}") from None
    return types[0].name.lower(), types[1].name.lower()
