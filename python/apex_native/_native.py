"""The one door to the native extension; everything else imports without it."""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apex_native.cuda_libraries import load_from_wheels
from apex_native.errors import NativeModuleError

__all__ = ["core", "forward_log"]

# llama.cpp's messages go where a program sends them. Without this handler logging would print its
# errors to stderr, before the sentence in which ours says the same.
logging.getLogger("apex_native.llama").addHandler(logging.NullHandler())

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
"""ggml_log_level to logging's levels (ggml.h)."""

_CUDA_WAY_OUT = (
    "this is a CUDA build and needs CUDA's libraries: "
    "`pip install nvidia-cublas nvidia-cuda-runtime`, or a toolkit on the loader's path"
)


@cache
def _extension() -> ModuleType:
    # While it loads, ggml installs a terminate handler that starts a debugger on a crash
    # (ggml/src/ggml.cpp) unless this variable is set. Not in somebody else's process.
    unset = "GGML_NO_BACKTRACE" not in os.environ
    if unset:
        os.environ["GGML_NO_BACKTRACE"] = "1"
    try:
        return _load_core()
    finally:
        if unset:
            del os.environ["GGML_NO_BACKTRACE"]


def _load_core() -> ModuleType:
    try:
        return importlib.import_module("apex_native._core")
    except ImportError as error:
        if not load_from_wheels(str(error)):
            raise _missing(
                error, "build it with `pip install .` in a clone of the project"
            ) from error
    try:
        return importlib.import_module("apex_native._core")
    except ImportError as error:
        raise _missing(error, _CUDA_WAY_OUT) from error


def _missing(error: ImportError, way_out: str) -> NativeModuleError:
    return NativeModuleError(
        f"the native core of apex_native could not be loaded ({error}); {way_out}"
    )


class _Core:
    """Stands for the extension module, which is loaded when something of it is first used."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(_extension(), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import apex_native._core as core
else:
    core = _Core()
"""The extension; NativeModuleError with the cause and the way out where it cannot be loaded."""


def forward_log() -> None:
    """Hand llama.cpp's messages since the last call to logging's ``apex_native.llama``."""
    logger = logging.getLogger("apex_native.llama")
    for level, text in core.drain_log():
        logger.log(_LEVELS.get(level, logging.INFO), "%s", text)
