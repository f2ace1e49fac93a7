"""What an evaluation of text may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apex_native.types import GgmlType

__all__ = ["CACHE_TYPES", "NOISE_CHUNKS", "EvalOptions", "cache_type"]

NOISE_CHUNKS = 8
"""Chunks the reference is computed twice for: 2,040 positions at a context of 512."""

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""llama.cpp's (common/arg.cpp, kv_cache_types)."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """See `apex_native.evaluate`. load: keyword arguments of `load_model`."""

    ctx: int = 512
    chunks: int | None = None
    parse_special: bool = False
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    n_ubatch: int | None = None
    noise_chunks: int = NOISE_CHUNKS
    router: bool = True
    two_pass: bool = False
    check_memory: bool = True
    load: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Layers of the models are on a GPU."""
        return bool(self.load.get("n_gpu_layers", 0))


def cache_type(name: str | GgmlType) -> GgmlType:
    """A type for keys or values of the cache; ValueError for one it cannot have."""
    text = name.name if isinstance(name, GgmlType) else name
    if text.lower() not in CACHE_TYPES:
        raise ValueError(f"a KV cache cannot have type {text}; choose {', '.join(CACHE_TYPES)}")
    return GgmlType[text.upper()]
