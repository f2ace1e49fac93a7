"""What llama.cpp can load, of whatever was given as a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.cli.output import Output
from apex_native.gguf_layout import model_stem

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput

__all__ = ["loadable", "loadable_models"]


def loadable_models(out: Output, models: Iterable[Path]) -> list[Path]:
    """Of each model a file on this disk; shards of one model, however many are named, are one."""
    found: dict[tuple[Path, str], Path] = {}
    for number, model in enumerate(models):
        path = loadable(out, model)
        stem = model_stem(path.name)
        is_shard = stem != path.name.removesuffix(".gguf")
        found.setdefault((path.parent, stem if is_shard else f"{number} {path.name}"), path)
    return list(found.values())


def loadable(out: Output, model: Path | ModelInput) -> Path:
    """A GGUF file on this disk; of a checkpoint, what it was converted to, now or before."""
    from apex_native.api.converting import converted_folder, gguf_of
    from apex_native.cli.progress import quantize_progress
    from apex_native.conversion import CheckpointSource, open_source
    from apex_native.hub import is_address

    if isinstance(model, Path):
        if not (model.is_dir() or is_address(model)):
            return model
        with open_source(model) as opened:
            return loadable(out, opened)
    if not isinstance(model, CheckpointSource):
        return model.path
    out.note(f"llama.cpp needs a file: {model.path.name} is kept in {converted_folder()}")
    with quantize_progress(out, f"converting {model.path.name}") as progress:
        return gguf_of(model, progress=progress)
