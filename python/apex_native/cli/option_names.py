"""The library's words in the command line's: ``force=True`` there is ``--force`` here.

The library names its arguments in backquotes; what a verb has an option for becomes that option.
"""

from __future__ import annotations

import re

__all__ = ["in_options"]

_OPTIONS = {
    "all_experts=True": "--all-experts",
    "allow_pickle=True": "--allow-pickle",
    "allow_requantize=True": "--allow-requantize",
    "cache_limit": "--cache-limit",
    "calibrate": "--calibration",
    "beyond_context=True": "--beyond-context",
    "check_memory=False": "--no-memory-check",
    "chunks": "--chunks",
    "compat=True": "--compat upstream",
    "ctx": "--ctx",
    "device": "--device",
    "force=True": "--force",
    "ftype": "--type",
    "gpu_memory": "--gpu-memory",
    "imatrix": "--imatrix",
    "int4_as_q4_0=True": "--int4-as-q4-0",
    "keep_split": "--keep-split",
    "max_memory": "--max-memory",
    "mmproj": "--mmproj",
    "n_gpu_layers": "--gpu-layers",
    "n_threads": "--threads",
    "n_ubatch": "--ubatch-size",
    "part='mmproj'": "--mmproj",
    "part='mtp'": "--mtp",
    "part='model-without-mtp'": "--no-mtp",
    "pre_tokenizer": "--pre-tokenizer",
    "repair=True": "--repair",
    "resume=True": "--resume",
    "save_base": "--save-base",
    "split_max_size": "--split-max-size",
    "strict=True": "--strict",
    "tier": "--tier",
    "trust_remote_code=True": "--trust-remote-code",
    "two_pass=True": "--two-pass",
}

_ARGUMENT = re.compile(r"`(\w+(?:=[\w'-]+)?)`")


def in_options(text: str) -> str:
    """A message of the library as it reads on the command line."""
    return _ARGUMENT.sub(lambda found: _OPTIONS.get(found[1], found[0]), text)
