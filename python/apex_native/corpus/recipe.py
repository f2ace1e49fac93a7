"""Recipes: TOML files that say what a calibration text is made of.

schema_version = 1
name = "mine"
tokens = 50000                 # as the model counts them
seed = 1

[domains.chat]
share = 0.6                    # of the tokens; the shares of all domains add up to 1
[[domains.chat.sources]]
kind = "builtin"               # builtin, files, hub or self: see `sources`
topic = "chat.english"

[domains.manuals]
share = 0.4
[[domains.manuals.sources]]
kind = "files"
paths = ["docs", "notes/*.md"] # beside the recipe
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from apex_native.corpus.source_specs import SourceSpec, read_source
from apex_native.corpus.toml_reader import TomlReader
from apex_native.errors import CorpusError

__all__ = ["Domain", "Recipe", "load_recipe", "parse_recipe", "recipe_names"]

RECIPE_SCHEMA_VERSION = 1

DEFAULT_TOKENS = 50_000
"""The size of the published calibration text of the APEX I-variants."""

DEFAULT_MAX_SIMILARITY = 0.8
"""Measured on the built-in text: below it two documents of one template say the same with other
numbers; 0.8 drops 3 of the first 40 documents of a topic and leaves over 100 of 400."""

DEFAULT_MAX_CHARS = 4000
"""About 1000 tokens: two chunks of 512, so that no document fills more than a few chunks."""

_SHARE_TOLERANCE = 1e-3
"""How far sums of shares may be off 1: thirds are written as 0.333."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A share of the text and where it comes from; source shares are of this domain."""

    name: str
    share: float
    sources: tuple[SourceSpec, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a calibration text is made of; `folder` is what relative paths begin at."""

    name: str
    domains: tuple[Domain, ...]
    tokens: int = DEFAULT_TOKENS
    seed: int = 1
    max_similarity: float = DEFAULT_MAX_SIMILARITY
    max_document_chars: int = DEFAULT_MAX_CHARS
    chat_template: Literal["model", "plain"] = "model"
    allow_short: bool = False
    description: str = ""
    folder: Path = Path()

    def with_options(
        self, *, tokens: int | None = None, seed: int | None = None, allow_short: bool = False
    ) -> Recipe:
        """The recipe with what is given in place of its own; CorpusError where it cannot be."""
        for name, value, least in (("tokens", tokens, 1), ("seed", seed, 0)):
            if value is not None and value < least:
                raise CorpusError(f"{name} must be {least} or more, found {value}")
        return replace(
            self,
            tokens=self.tokens if tokens is None else tokens,
            seed=self.seed if seed is None else seed,
            allow_short=self.allow_short or allow_short,
        )

    @property
    def needs_generation(self) -> bool:
        """True where the model has to write text, so that it needs its weights."""
        return any(source.kind == "self" for d in self.domains for source in d.sources)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as it would stand in a file, every default written out."""
        values = asdict(self)
        del values["folder"]
        domains = {}
        for domain in self.domains:
            sources = [{"kind": source.kind, **asdict(source)} for source in domain.sources]
            domains[domain.name] = {"share": domain.share, "sources": sources}
        return {"schema_version": RECIPE_SCHEMA_VERSION, **values, "domains": domains}

    @property
    def sha256(self) -> str:
        """Over everything that decides about the text, in one fixed spelling."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    return tuple(_shipped())


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or of a path that ends in ``.toml``.

    Raises CorpusError for an unknown name (with near ones) or a file that is no recipe; the message
    names the key, what was expected and what was found.
    """
    name = str(name_or_path)
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise CorpusError(f"recipe {path}: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise CorpusError(f"recipe {path}: not UTF-8 at byte {error.start}") from error
        return parse_recipe(text, origin=str(path), folder=path.absolute().parent)
    return parse_recipe(recipe_text(name), origin=f"{name}.toml")


def recipe_text(name: str) -> str:
    """The TOML of a recipe that ships with the package. Raises CorpusError for an unknown name."""
    shipped = _shipped()
    if name not in shipped:
        near = difflib.get_close_matches(name.lower(), shipped, n=2, cutoff=0.75)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise CorpusError(
            f"unknown recipe '{name}'; {hint}known: {', '.join(shipped)}, or a path that ends in "
            ".toml"
        )
    return shipped[name]


def parse_recipe(text: str, *, origin: str, folder: Path = Path()) -> Recipe:
    """Read a recipe from TOML; origin names it in errors.

    Raises CorpusError for malformed TOML, missing, unknown or mistyped keys and shares that do not
    add up to 1.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorpusError(f"recipe {origin}: {error}; it must be TOML") from error
    return _read(TomlReader(data, f"recipe {origin}"), folder)


def _shipped() -> Mapping[str, str]:
    folder = resources.files("apex_native.corpus") / "recipes"
    files = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    texts = {entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in files}
    return {stem: texts[stem] for stem in sorted(texts)}


def _read(reader: TomlReader, folder: Path) -> Recipe:
    version = reader.integer("schema_version", least=0)
    if version != RECIPE_SCHEMA_VERSION:
        raise reader.error("schema_version", f"must be {RECIPE_SCHEMA_VERSION}, found {version}")
    domains = tuple(_read_domain(name, table) for name, table in reader.tables("domains"))
    if not domains:
        raise reader.error("domains", "must name at least one domain")
    _require_whole(reader, "domains", [domain.share for domain in domains])
    template: Literal["model", "plain"] = "model"
    if reader.text("chat_template", "model", among=("model", "plain")) == "plain":
        template = "plain"
    recipe = Recipe(
        name=reader.text("name"),
        domains=domains,
        tokens=reader.integer("tokens", DEFAULT_TOKENS, least=1),
        seed=reader.integer("seed", 1, least=0),
        max_similarity=reader.number("max_similarity", DEFAULT_MAX_SIMILARITY, least=0.05, most=2),
        max_document_chars=reader.integer("max_document_chars", DEFAULT_MAX_CHARS, least=100),
        chat_template=template,
        allow_short=reader.flag("allow_short", default=False),
        description=reader.text("description", ""),
        folder=folder,
    )
    reader.done()
    return recipe


def _read_domain(name: str, reader: TomlReader) -> Domain:
    share = reader.number("share", least=0, most=1)
    sources = [read_source(table) for table in reader.table_list("sources")]
    reader.done()
    given = [source.share for source in sources if source.share is not None]
    if len(given) < len(sources):
        # Sources without a share divide what the others leave.
        rest = (1 - sum(given)) / (len(sources) - len(given))
        if rest <= 0:
            raise reader.error("sources", "leave nothing for those without a share")
        sources = [s if s.share is not None else replace(s, share=rest) for s in sources]
    _require_whole(reader, "sources", [source.share or 0.0 for source in sources])
    return Domain(name, share, tuple(sources))


def _require_whole(reader: TomlReader, key: str, shares: list[float]) -> None:
    if abs(sum(shares) - 1) > _SHARE_TOLERANCE:
        raise reader.error(key, f"must have shares that add up to 1, found {sum(shares):g}")
