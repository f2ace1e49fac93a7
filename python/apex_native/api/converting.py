"""A checkpoint written as GGUF: what upstream's converter writes, byte for byte."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.api.planning import classify
from apex_native.hub import is_address
from apex_native.plan import make_plan
from apex_native.quantization import QuantizeTarget, quantize_many

if TYPE_CHECKING:
    from apex_native.conversion import CheckpointSource, ConversionOptions, ModelInput
    from apex_native.plan import Plan
    from apex_native.quantization import Progress, QuantizeManifest

__all__ = ["convert", "converted_folder", "gguf_of"]


def convert(
    source: CheckpointSource | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    options: ConversionOptions | None = None,
    n_threads: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> QuantizeManifest:
    """Write a checkpoint's folder as a GGUF file, without holding it in memory.

    The file is the one that llama.cpp's convert_hf_to_gguf.py writes with the same options, but
    for `ConversionOptions.folder_metadata`. Safe to interrupt: resume goes on, with the same bytes
    in the end. Weights that are NaN or Inf are refused.

    Raises CheckpointError for what is wrong with the folder, QuantizeError (a weight that is not
    finite, or does not fit into F16), OutputError, Cancelled (resumable).
    """
    from apex_native.conversion import CheckpointSource, open_checkpoint

    if not isinstance(source, CheckpointSource):
        with open_checkpoint(source, options) as opened:
            return convert(
                opened, output, n_threads=n_threads, resume=resume, force=force,
                progress=progress, cancel=cancel,
            )  # fmt: skip
    if options is not None and options != source.options:
        raise ValueError("the checkpoint is open with other options; give them to open_checkpoint")
    target = QuantizeTarget(copying_plan(source), Path(output), header=source.header)
    (manifest,) = quantize_many(
        source, [target], n_threads=n_threads, resume=resume, force=force, progress=progress,
        cancel=cancel,
    )  # fmt: skip
    return manifest


def gguf_of(
    source: ModelInput | str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """A GGUF file of a model, for what loads it: a file as it is, a checkpoint converted.

    What a folder or an ``hf://`` checkpoint is converted to is kept, for the next time, in
    `converted_folder`, named after what is in it. Raises as `convert` does.
    """
    from apex_native.conversion import CheckpointSource, open_source

    if isinstance(source, str | os.PathLike):
        if not (is_address(source) or Path(source).is_dir()):
            return Path(source)
        with open_source(source) as opened:
            return gguf_of(opened, n_threads=n_threads, progress=progress, cancel=cancel)
    if not isinstance(source, CheckpointSource):
        return source.path
    folder = converted_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.path.name}-{source.fingerprint()[:12]}.gguf"
    if not path.exists():
        convert(source, path, n_threads=n_threads, resume=True, progress=progress, cancel=cancel)
    return path


def converted_folder() -> Path:
    """Where `gguf_of` keeps what it converts: APEX_CACHE_DIR, or the user's cache folder."""
    own = os.environ.get("APEX_CACHE_DIR")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (caches / "apex-native" if own is None else Path(own)) / "converted"


def copying_plan(source: CheckpointSource) -> Plan:
    """The plan that keeps every tensor and every key as it is."""
    plan = make_plan(classify(source), ftype="COPY")
    kv_bytes = sum(source.facts.kv_sizes.values())
    return replace(plan, metadata=(), metadata_removed=(), kv_bytes=kv_bytes)
