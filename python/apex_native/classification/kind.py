"""What a GGUF file holds: not all of them are language models."""

from __future__ import annotations

from enum import StrEnum

from ..types import GgufFacts

__all__ = ["FileKind", "find_kind"]


class FileKind(StrEnum):
    """The kinds of GGUF file that llama.cpp's tools write."""

    MODEL = "model"
    PROJECTOR = "multimodal projector"
    """A vision or audio encoder with its projector, an mmproj file (tools/mtmd/clip.cpp)."""
    LORA_ADAPTER = "LoRA adapter"
    CONTROL_VECTOR = "control vector"
    IMATRIX = "importance matrix"


_BY_TYPE = {
    "adapter": FileKind.LORA_ADAPTER,
    "mmproj": FileKind.PROJECTOR,
    "clip-vision": FileKind.PROJECTOR,
    "imatrix": FileKind.IMATRIX,
}
"""``general.type``: GGUFType in gguf-py's constants.py, and what older converters wrote."""

_BY_ARCHITECTURE = {
    "clip": FileKind.PROJECTOR,
    "controlvector": FileKind.CONTROL_VECTOR,
}


def find_kind(facts: GgufFacts) -> FileKind:
    """By general.type and general.architecture, else by keys only one kind has."""
    named = _BY_TYPE.get(str(facts.metadata.get("general.type", "")))
    kind = named or _BY_ARCHITECTURE.get(facts.architecture)
    if kind is not None:
        return kind
    if "adapter.type" in facts.kv_sizes:
        return FileKind.LORA_ADAPTER
    if "imatrix.chunk_count" in facts.kv_sizes:
        return FileKind.IMATRIX
    return FileKind.MODEL
