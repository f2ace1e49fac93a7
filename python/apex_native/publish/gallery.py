"""An entry for LocalAI's gallery: one model, the other files as its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apex_native.publish.files import ModelFiles

__all__ = ["gallery_entries"]

_BASE = "github:mudler/LocalAI/gallery/virtual.yaml@master"


def gallery_entries(
    models: Sequence[ModelFiles],
    repo: str,
    sums: Mapping[str, str],
    *,
    description: str,
    license: str,
    projector: str | None,
) -> list[dict[str, Any]]:
    """Fields of ``GalleryModel`` (core/gallery/models_types.go): a list as gallery/index.yaml is.

    The first names all as variants, of which LocalAI picks one by the machine.
    """
    entries = []
    for i, model in enumerate(models):
        names = [path.name for path in model.paths]
        parameters: dict[str, Any] = {
            "backend": "llama-cpp",
            "known_usecases": ["chat"],
            "options": ["use_jinja:true"],
            "parameters": {"model": _place(repo, names[0])},
            "template": {"use_tokenizer_template": True},
        }
        files = list(names)
        if projector is not None:
            parameters["mmproj"] = _place(repo, projector, folder="mmproj")
            parameters["known_usecases"].append("vision")
        entry: dict[str, Any] = {
            "name": _name(model),
            "url": _BASE,
            "urls": [f"https://huggingface.co/{repo}"],
            "description": description,
            "license": license,
            "tags": ["llm", "gguf", "apex"],
            "variants": [{"model": _name(other)} for other in models[1:]] if i == 0 else [],
            "overrides": parameters,
            "files": [_file(repo, name, sums[name], "models") for name in files],
        }
        if projector is not None:
            entry["files"].append(_file(repo, projector, sums[projector], "mmproj"))
        if not license:
            del entry["license"]
        entries.append(entry)
    return entries


def _name(model: ModelFiles) -> str:
    return model.name.removesuffix(".gguf").lower()


def _place(repo: str, name: str, folder: str = "models") -> str:
    return f"llama-cpp/{folder}/{repo.split('/')[-1]}/{name}"


def _file(repo: str, name: str, sha256: str, folder: str) -> dict[str, str]:
    return {
        "filename": _place(repo, name, folder),
        "sha256": sha256,
        "uri": f"huggingface://{repo}/{name}",
    }
