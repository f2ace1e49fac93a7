"""llama.cpp's own converter, in this process under a private name (see third_party/llama.cpp)."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.errors import CheckpointError

__all__ = ["Upstream", "upstream", "working"]

_LOGGERS = ("apex_native._upstream", "hf-to-gguf", "metadata")
"""Upstream tells of every tensor; what matters arrives as an exception."""

_LOCK = threading.RLock()


@dataclass(frozen=True, slots=True)
class Upstream:
    """The modules of the private package, and torch, which they compute with."""

    torch: Any
    gguf: Any
    conversion: Any
    base: Any
    switches: Any


@functools.cache
def upstream() -> Upstream:
    """Import the converter; takes seconds, most of them torch's and transformers'.

    Raises CheckpointError where the extra `convert` is not installed.
    """
    try:
        torch = importlib.import_module("torch")
        conversion, gguf, switches, base = (
            importlib.import_module(f"apex_native._upstream.{name}")
            for name in ("conversion", "gguf", "switches", "conversion.base")
        )
    except ImportError as error:
        raise CheckpointError(
            f"a checkpoint needs torch, transformers and sentencepiece ({error}); "
            "`pip install 'apex-native[convert]'` brings them"
        ) from error
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Upstream(torch, gguf, conversion, base, switches)


@contextmanager
def working(
    *,
    trust_remote_code: bool,
    folder_metadata: bool,
    before_read: Callable[[Path, int, int], None] | None = None,
) -> Iterator[Upstream]:
    """The converter with its switches set; one thread at a time, as its modules have globals.

    before_read is told path, offset and size of what the converter is about to read.
    """
    found = upstream()
    with _LOCK, found.torch.inference_mode():
        found.switches.trust_remote_code = trust_remote_code
        found.switches.folder_metadata = folder_metadata
        unwatched = found.switches.before_read
        if before_read is not None:
            found.switches.before_read = lambda place: before_read(
                Path(place.filename), place.offset, place.size
            )
        try:
            yield found
        finally:
            found.switches.before_read = unwatched
            found.switches.trust_remote_code = False
            found.switches.folder_metadata = True
