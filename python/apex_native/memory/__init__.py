"""What a model takes of a machine's memory, and which of its files fit.

Caches and buffers are llama.cpp's own sums for a model that is loaded without weights; weights are
a plan's bytes; nothing is allocated.
"""

from __future__ import annotations

from apex_native.memory.context import (
    CacheTensor,
    ContextMemory,
    ContextSettings,
    context_memory,
)
from apex_native.memory.fit import CUDA_CONTEXT_BYTES, Fit, Need, fit_file, memory_need
from apex_native.memory.room import Room, gpu_room
from apex_native.memory.weights import PlacedWeights, place_weights

__all__ = [
    "CUDA_CONTEXT_BYTES",
    "CacheTensor",
    "ContextMemory",
    "ContextSettings",
    "Fit",
    "Need",
    "PlacedWeights",
    "Room",
    "context_memory",
    "fit_file",
    "gpu_room",
    "memory_need",
    "place_weights",
]
