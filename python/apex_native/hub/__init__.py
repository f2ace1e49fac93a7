"""Models on the Hugging Face hub: addresses, listings, parts of files, whole files, checked.

Everything goes through huggingface_hub's client (the extra ``hub``): its endpoint, its login, its
cache, its retries.
"""

from __future__ import annotations

from apex_native.hub.address import HubAddress, is_address, parse_address
from apex_native.hub.files import gguf_names, is_checkpoint, local_gguf
from apex_native.hub.repository import HubFile, HubRepository
from apex_native.hub.shards import Shards
from apex_native.hub.workspace import Workspace

__all__ = [
    "HubAddress",
    "HubFile",
    "HubRepository",
    "Shards",
    "Workspace",
    "gguf_names",
    "is_address",
    "is_checkpoint",
    "local_gguf",
    "parse_address",
]
