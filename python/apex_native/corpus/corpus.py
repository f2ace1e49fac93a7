"""A calibration text with its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_native.atomic_write import make_folder, write_atomically
from apex_native.errors import CorpusError

__all__ = ["MANIFEST_SCHEMA_VERSION", "MANIFEST_SUFFIX", "Corpus", "domain_paths", "load_corpus",
           "manifest_path"]  # fmt: skip

MANIFEST_SCHEMA_VERSION = 1
MANIFEST_SUFFIX = ".manifest.json"

_ADVICE = "free the place or choose another"


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text to calibrate with, and where every part of it comes from.

    `manifest` is JSON: sources, shares by tokens, hashes, seed, recipe, and ``parse_special``: the
    text is to be tokenized so that spelled special tokens become tokens.
    """

    text: str
    manifest: Mapping[str, Any]
    by_domain: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The same documents, each domain's by itself; empty where the text was read from a file."""

    def __repr__(self) -> str:
        return f"Corpus({self.n_tokens:,} tokens, recipe {self.manifest['recipe']['name']!r})"

    @property
    def n_tokens(self) -> int:
        """Tokens as the model counted them when the text was built."""
        return int(self.manifest["text"]["tokens"])

    @property
    def parse_special(self) -> bool:
        """Whether spelled special tokens are to be parsed as such."""
        return bool(self.manifest["parse_special"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be met, with numbers."""
        return tuple(self.manifest["warnings"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the text and ``PATH.manifest.json``, each whole or not at all.

        Raises OutputError where the place cannot be written.
        """
        path = Path(path)
        manifest = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        # In this order a crash between the two leaves a manifest that does not fit, which
        # `load_corpus` notices, or none.
        write_atomically(path, self.text, what="text", advice=_ADVICE)
        write_atomically(manifest_path(path), manifest, what="manifest", advice=_ADVICE)

    def save_domains(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write each domain's documents to FOLDER/DOMAIN.txt, and say where.

        Raises CorpusError where a domain's name is none for a file, OutputError where the place
        cannot be written.
        """
        paths = domain_paths(self.by_domain, folder)
        if paths:
            make_folder(folder)
        for path, text in zip(paths, self.by_domain.values(), strict=True):
            write_atomically(path, text, what="text", advice=_ADVICE)
        return paths


def domain_paths(domains: Iterable[str], folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Where `Corpus.save_domains` writes. Raises CorpusError for a name that is none for a file."""
    names = tuple(domains)
    for name in names:
        if name != Path(name).name or name.startswith(".") or "\\" in name or "\0" in name:
            raise CorpusError(
                f"domain '{name}' cannot be a file's name; rename it in the recipe to have a text "
                "for each domain"
            )
    return tuple(Path(folder) / f"{name}.txt" for name in names)


def manifest_path(path: Path) -> Path:
    """Where the manifest of a text lies."""
    return path.with_name(path.name + MANIFEST_SUFFIX)


def load_corpus(path: str | os.PathLike[str]) -> Corpus:
    """A text that `Corpus.save` wrote, with its manifest.

    Raises CorpusError where either is missing or damaged, or the text was changed since.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        manifest = json.loads(manifest_path(path).read_text("utf-8"))
        version, expected = manifest["schema_version"], manifest["text"]["sha256"]
    except OSError as error:
        raise CorpusError(f"{error.filename}: {error.strerror}; build the text again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{manifest_path(path)} is no manifest: {error!r}") from error
    if version != MANIFEST_SCHEMA_VERSION:
        raise CorpusError(
            f"{manifest_path(path)}: schema version {version}, expected {MANIFEST_SCHEMA_VERSION}; "
            "build the text again"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise CorpusError(
            f"{path} was changed after it was built: sha256 {found}, its manifest says {expected}; "
            "build it again, or delete the manifest to use it as any other text"
        )
    return Corpus(data.decode(), manifest)
