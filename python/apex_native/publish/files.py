"""What lies in a folder that is to be published: models with manifests, and what is beside."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from apex_native.classification import FileKind, find_kind
from apex_native.errors import DataError, GgufError
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import GgufFile, open_gguf
from apex_native.reports import name_tag, recipe_in_name
from apex_native.types import GgufFacts

__all__ = ["ModelFiles", "PublishedFolder", "scan_folder"]

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-\d{5}\.gguf")
_TYPES_NAMED = 3


@dataclass(frozen=True)
class ModelFiles:
    """One quantized model: its files (shards in order), header, manifest, `model_fingerprint`."""

    name: str
    paths: tuple[Path, ...]
    facts: GgufFacts
    manifest: Mapping[str, Any]
    fingerprint: str
    is_compared: bool = True
    """Every byte is what the manifest was written for; one of before holds no checksums."""

    @property
    def stem(self) -> str:
        """The name without .gguf."""
        return self.name.removesuffix(".gguf")

    @property
    def nbytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def bpw(self) -> float:
        """Bits per weight, as the manifest says."""
        return float(self.manifest["bpw"])

    @property
    def tag(self) -> str | None:
        """What ``llama-server -hf`` and Ollama call it behind the repository's name."""
        return name_tag(self.paths[0].name)

    @property
    def recipe(self) -> str:
        """The tier, the mix, or what the manifest calls it."""
        return str(
            self.manifest.get("tier")
            or self.manifest.get("ftype")
            or recipe_in_name(self.name)
            or "own types"
        )

    @cached_property
    def types(self) -> str:
        """The types with most bytes and their share: "Q6_K 71 %, Q8_0 20 %, …"."""
        totals: dict[str, int] = {}
        for tensor in self.facts.tensors:
            totals[tensor.type.name] = totals.get(tensor.type.name, 0) + tensor.nbytes
        most = sorted(totals.items(), key=lambda item: -item[1])
        shares = [f"{name} {n / sum(totals.values()):.0%}" for name, n in most[:_TYPES_NAMED]]
        return ", ".join(shares) + (", …" if len(most) > _TYPES_NAMED else "")


@dataclass(frozen=True)
class PublishedFolder:
    """Models, the largest first; projectors and importance matrices beside them."""

    path: Path
    models: tuple[ModelFiles, ...]
    projectors: tuple[Path, ...]
    matrices: tuple[Path, ...]


def scan_folder(folder: Path, starting: Callable[[str], None] | None = None) -> PublishedFolder:
    """Read every GGUF file and every manifest of a folder.

    starting is told which model's bytes are compared next. Raises GgufError for a damaged file;
    DataError where there is no model, or one without its manifest or unlike it: nothing is
    published that was not verified.
    """
    say = starting if starting is not None else lambda _: None
    models, projectors, matrices = [], [], []
    for path in sorted(folder.glob("*.gguf")):
        match = _SHARD.fullmatch(path.name)
        if match is not None and int(match["number"]) != 1:
            continue
        with open_gguf(path) as file:
            if file.missing_data is not None:
                raise GgufError(f"{file.missing_data}; it cannot be published")
            kind = find_kind(file.facts)
            if kind is FileKind.MODEL:
                name = path.name if match is None else f"{match['stem']}.gguf"
                models.append(_verified(name, file))
        if kind is FileKind.PROJECTOR:
            projectors.append(path)
        elif kind is FileKind.IMATRIX:
            matrices.append(path)
    if not models:
        raise DataError(
            f"{folder}: no model in it (*.gguf); give the folder that quantize wrote to"
        )
    models.sort(key=lambda model: -model.nbytes)
    _require_own_tags(models)
    models = [_compared(model, say) for model in models]  # hours of reading: when all else is right
    return PublishedFolder(folder, tuple(models), tuple(projectors), tuple(matrices))


def _verified(name: str, file: GgufFile) -> ModelFiles:
    paths, facts = file.shard_paths, file.facts
    path = paths[0].with_name(f"{name}.manifest.json")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        promised = {t["name"]: (t["type"], t["bytes"]) for t in manifest["tensors"]}
        total, bpw = int(manifest["total_bytes"]), float(manifest["bpw"])
    except FileNotFoundError:
        raise DataError(
            f"{path}: missing; quantize writes it, and nothing is published without; keep the "
            "model that files were made from in another folder"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no manifest of quantize ({error}); quantize again") from error
    found = {t.name: (t.type.name, t.nbytes) for t in facts.tensors}
    differing = sorted(n for n in {*found, *promised} if found.get(n) != promised.get(n))
    if differing:
        raise DataError(
            f"{paths[0]}: {differing[0]} is {found.get(differing[0])}, its manifest says "
            f"{promised.get(differing[0])} ({len(differing)} tensors differ); quantize it again"
        )
    size = sum(p.stat().st_size for p in paths)
    if size != total:
        raise DataError(f"{paths[0]}: {size:,} bytes, its manifest says {total:,}")
    return ModelFiles(name, paths, facts, {**manifest, "bpw": bpw}, model_fingerprint(file))


def _compared(model: ModelFiles, say: Callable[[str], None]) -> ModelFiles:
    """Raise DataError where a file's header or weights are not what its manifest was written for.

    A manifest of before, which says nothing of them, leaves the model uncompared.
    """
    say(f"comparing {model.name} with its manifest")
    for path, header in zip(model.paths, model.manifest.get("headers", ()), strict=False):
        with path.open("rb") as stored:
            digest = hashlib.sha256(stored.read(header["nbytes"])).hexdigest()
        if digest != header["sha256"]:
            raise DataError(
                f"{path}: its metadata have changed since its manifest was written; quantize again"
            )
    written = {t["name"]: t.get("checksum") for t in model.manifest["tensors"] if t["bytes"]}
    if not all(written.values()):
        return replace(model, is_compared=False)
    with open_gguf(model.paths[0]) as file:
        found = file.checksums()
    changed = [name for name, checksum in written.items() if found[name] != checksum]
    if changed:
        more = f" and those of {len(changed) - 1} more tensors" if len(changed) > 1 else ""
        raise DataError(
            f"{model.paths[0]}: the weights of {changed[0]}{more} have changed since its manifest "
            "was written; quantize again"
        )
    return model


def _require_own_tags(models: list[ModelFiles]) -> None:
    """Two files that llama.cpp calls by one name cannot both be found."""
    tags: dict[str, str] = {}
    for model in models:
        tag = model.tag or ""
        if tag in tags:
            raise DataError(
                f"{model.name} and {tags[tag]} are both ':{tag}' to llama-server; rename one (the "
                "default names of quantize differ)"
            )
        tags[tag] = model.name
