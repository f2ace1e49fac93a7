"""The model that ships with the package: a trained Qwen3.5-MoE of 18.4 million weights.

8 layers, 8 experts (2 active) and a shared expert, hidden size 256, vocabulary 4096; trained by
this project on prose, Python, worked arithmetic and tool calls. Large enough that every tier, type
and rule has something to act on, small enough that all of it takes seconds.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
from importlib import resources
from pathlib import Path

from apex_native.errors import ApexError

__all__ = ["DEMO_IMATRIX_NAME", "DEMO_SHA256", "cache_folder", "demo_imatrix", "demo_model"]

DEMO_NAME = "demo-qwen35moe-8x8-bf16.gguf"
DEMO_SHA256 = "857dfd52cfc3dbc4eba74a30276a8eeff11bd13a76977b2c1c5a5b64cfae1893"

DEMO_IMATRIX_NAME = "demo-imatrix.gguf"
"""Collected by llama-imatrix on generated text; ``bench/make_demo_imatrix.py`` makes it again."""


def demo_model() -> Path:
    """Path of the demo model, unpacked on first use into the user's cache.

    The cache is ``$APEX_CACHE_DIR``, ``$XDG_CACHE_HOME/apex-native`` or ``~/.cache/apex-native``.
    Raises ApexError where the packed file is damaged.
    """
    folder = cache_folder()
    target = folder / f"{DEMO_SHA256[:12]}-{DEMO_NAME}"
    if not target.exists():
        packed = resources.files("apex_native") / "data" / f"{DEMO_NAME}.xz"
        content = lzma.decompress(packed.read_bytes())
        found = hashlib.sha256(content).hexdigest()
        if found != DEMO_SHA256:
            raise ApexError(
                f"the packed demo model is damaged: sha256 {found}, expected {DEMO_SHA256}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            temporary.write(content)
        Path(temporary.name).replace(target)
    return target


def demo_imatrix() -> Path:
    """Path of the demo model's importance matrix, as `load_imatrix` reads it.

    The package is installed as files (it holds an extension), so the data file has a path.
    """
    return Path(str(resources.files("apex_native") / "data" / DEMO_IMATRIX_NAME))


def cache_folder() -> Path:
    """Where unpacked data go: see `demo_model`. The folder may not exist yet."""
    own = os.environ.get("APEX_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apex-native"
