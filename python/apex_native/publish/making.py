"""How the files of a repository were made: recipes, matrices, and commands that make them again."""

from __future__ import annotations

import re
import shlex

from apex_native.errors import ApexError
from apex_native.imatrix import DEFAULT_PRIOR, Imatrix, Importance, load_imatrix
from apex_native.plan import is_tier_name
from apex_native.publish.files import ModelFiles, PublishedFolder
from apex_native.reports.markdown_table import escape
from apex_native.types import GgufFacts

__all__ = ["made_by", "making_commands", "matrix_notes", "stated_base"]

_FOLDERS = re.compile(r"(?<!\S)/\S*/")
"""Where a text lay on the machine that read it: nobody else's business."""


def stated_base(facts: GgufFacts) -> str:
    """OWNER/NAME of the model that a file was made from, as it says itself; else nothing."""
    url = facts.metadata.get("general.base_model.0.repo_url")
    prefix = "https://huggingface.co/"
    return url.removeprefix(prefix) if isinstance(url, str) and url.startswith(prefix) else ""


def matrix_notes(folder: PublishedFolder) -> dict[str, str]:
    """Of each model by name, as Markdown: its matrix's text and length; "none" without one.

    Tokens are known where the matrix itself lies in the folder.
    """
    known = _matrices(folder)
    return {model.name: _matrix_note(model, known) for model in folder.models}


def _matrices(folder: PublishedFolder) -> dict[str, Imatrix]:
    found: dict[str, Imatrix] = {}
    for path in folder.matrices:
        try:
            matrix = load_imatrix(path)
        except ApexError:
            continue  # it is uploaded as it is; nothing is said of it
        found[matrix.sha256] = matrix
    return found


def _matrix_note(model: ModelFiles, known: dict[str, Imatrix]) -> str:
    digest = model.manifest.get("imatrix_sha256")
    if not digest:
        return "none"
    metadata = model.facts.metadata
    dataset = _FOLDERS.sub("", str(metadata.get("quantize.imatrix.dataset", "")))
    text = escape(dataset) or "a text it does not name"
    matrix, chunks = known.get(digest), metadata.get("quantize.imatrix.chunks_count")
    if matrix is not None and matrix.chunk_count and matrix.chunk_size:
        return f"{text}, {matrix.chunk_count * matrix.chunk_size:,} tokens (`{matrix.path.name}`)"
    return f"{text}, {chunks} chunks" if chunks else text


def making_commands(folder: PublishedFolder) -> list[str]:
    """`quantize` once for each importance matrix: with the same source it gives the same bytes.

    Files whose recipe was changed by hand, or fitted to second moments, are in none of them.
    """
    matrices = _matrices(folder)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for model in folder.models:
        if _is_plain(model):
            kind = "tier" if model.manifest.get("tier") else "ftype"
            key = (kind, tuple(_settings(model, matrices)))
            groups.setdefault(key, []).append(str(model.manifest[kind]))
    commands = []
    for (kind, options), recipes in groups.items():
        recipe = ["--tier" if kind == "tier" else "--type", ",".join(recipes)]
        words = ["apex-native", "quantize", "MODEL-BF16.gguf", *recipe, *options, "-o", "."]
        commands.append(shlex.join(words))
    return commands


def _is_plain(model: ModelFiles) -> bool:
    manifest = model.manifest
    tier = manifest.get("tier")
    has_recipe = is_tier_name(str(tier)) if tier else bool(manifest.get("ftype"))
    return has_recipe and manifest.get("own_rules") is False and not manifest.get("hessian")


def _settings(model: ModelFiles, matrices: dict[str, Imatrix]) -> list[str]:
    manifest = model.manifest
    digest = manifest.get("imatrix_sha256")
    semantics = str(manifest.get("semantics", ""))
    matrix = matrices.get(digest) if digest else None
    file = "" if not digest else "IMATRIX.gguf" if matrix is None else matrix.path.name
    return _options(
        {
            "--imatrix": file,
            "--prior": _prior(model, matrix) if digest else "",
            "--semantics": semantics if manifest.get("tier") and semantics != "published" else "",
            "--base-model": stated_base(model.facts),
            "--license": str(model.facts.metadata.get("general.license", "")),
            "--quantized-by": str(model.facts.metadata.get("general.quantized_by", "")),
        }
    )


def _prior(model: ModelFiles, matrix: Imatrix | None) -> str:
    """What --prior has to say: nothing where the default is meant."""
    used = model.manifest.get("imatrix_prior")
    usual: str | None = str(DEFAULT_PRIOR)
    if used is None and matrix is not None:
        usual = Importance(matrix, model.facts).prior
    elif used is None:
        return ""
    return "" if used == usual else str(used or "none")


def _options(values: dict[str, str]) -> list[str]:
    return [part for name, value in values.items() if value for part in (name, value)]


def made_by(folder: PublishedFolder) -> str:
    """Versions of what made the files."""
    build = folder.models[0].manifest.get("build", {})
    return (
        f"apex-native {build.get('version', '?')}, llama.cpp {build.get('llama_cpp_commit', '?')}"
    )
