"""From what a user gives, a path or an address, to an open source of weights."""

from __future__ import annotations

import os
from pathlib import Path

from apex_native.conversion.options import ConversionOptions
from apex_native.conversion.remote import open_remote
from apex_native.conversion.source import CheckpointSource
from apex_native.errors import CheckpointError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.hub import is_address, parse_address

__all__ = ["ModelInput", "open_checkpoint", "open_source"]

ModelInput = GgufFile | CheckpointSource
"""What users give as a model to plan and to quantize."""


def open_checkpoint(
    path: str | os.PathLike[str],
    options: ConversionOptions | None = None,
    *,
    cache_limit: int | None = None,
) -> CheckpointSource:
    """Open a folder of safetensors with config and tokenizer, as transformers saves them.

    path may be ``hf://owner/repo[@revision][/folder]``: then shards come when their rows are read,
    and at most cache_limit bytes of them are kept at a time (None: all, in the cache of
    huggingface_hub). Needs the extra `convert`, an address also `hub`. Raises CheckpointError,
    HubError.
    """
    if not is_address(path):
        return CheckpointSource(path, options or ConversionOptions())
    found = open_remote(parse_address(path), options, cache_limit=cache_limit)
    if isinstance(found, CheckpointSource):
        return found
    found.close()
    raise CheckpointError(f"{os.fspath(path)}: a GGUF file; it needs no conversion")


def open_source(
    path: str | os.PathLike[str],
    options: ConversionOptions | None = None,
    *,
    cache_limit: int | None = None,
    needs_data: bool = True,
) -> ModelInput:
    """Open what weights come from: a checkpoint's folder, a GGUF file, either on the hub.

    needs_data: a GGUF file of the hub is downloaded, and not its header alone.
    """
    if is_address(path):
        return open_remote(
            parse_address(path), options, cache_limit=cache_limit, needs_data=needs_data
        )
    if Path(path).is_dir():
        return CheckpointSource(path, options or ConversionOptions())
    return open_gguf(path)
