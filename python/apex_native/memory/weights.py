"""Which weights lie where, when all layers are on a GPU and experts of some on the host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["PlacedWeights", "SizedWeight", "place_weights"]

_ON_HOST = frozenset(
    {
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "position_embd.weight",
        "token_types.weight",
    }
)
"""llama.cpp keeps the input layer on the host: a lookup of a few rows needs no GPU."""

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(up|down|gate|gate_up)_(ch|)exps")
"""What ``--n-cpu-moe`` moves (``LLM_FFN_EXPS_REGEX`` of common/common.h)."""


class SizedWeight(Protocol):
    """A tensor of a file or of a plan."""

    @property
    def name(self) -> str:
        """As in the file."""

    @property
    def nbytes(self) -> int:
        """Stored bytes."""


@dataclass(frozen=True, slots=True)
class PlacedWeights:
    """Bytes of weights on the GPU, on the host, and of the experts of each layer that has any.

    staging: room on the GPU through which experts on the host pass for a long prompt. llama.cpp
    copies one tensor at a time; of experts with biases it may hold a layer's.
    """

    gpu: int
    host: int
    experts: tuple[tuple[int, int], ...]
    staging: int = 0

    def with_experts_on_host(self, n_layers: int) -> PlacedWeights:
        """With the experts of layers below n_layers on the host, as ``--n-cpu-moe`` puts them."""
        moved = sum(nbytes for layer, nbytes in self.experts if layer < n_layers)
        left = tuple(item for item in self.experts if item[0] >= n_layers)
        return PlacedWeights(self.gpu - moved, self.host + moved, left, self.staging)


def place_weights(
    tensors: Iterable[SizedWeight], *, skip: frozenset[str] = frozenset()
) -> PlacedWeights:
    """Weights as llama.cpp places them with every layer on a GPU; skip: what it does not load.

    A model without an output matrix of its own has its embeddings in both places.
    """
    loaded = [tensor for tensor in tensors if tensor.name not in skip]
    on_host = sum(tensor.nbytes for tensor in loaded if tensor.name in _ON_HOST)
    on_gpu = sum(tensor.nbytes for tensor in loaded) - on_host
    names = {tensor.name: tensor.nbytes for tensor in loaded}
    if "output.weight" not in names:
        on_gpu += names.get("token_embd.weight", 0)
    experts: dict[int, list[SizedWeight]] = {}
    for tensor in loaded:
        match = _EXPERTS.match(tensor.name)
        if match is not None:
            experts.setdefault(int(match.group(1)), []).append(tensor)
    sizes = tuple((n, sum(t.nbytes for t in layer)) for n, layer in sorted(experts.items()))
    staging = max(map(_staging, experts.values()), default=0)
    return PlacedWeights(on_gpu, on_host, sizes, staging)


def _staging(experts: Iterable[SizedWeight]) -> int:
    """Of one layer, as measured (bench/results/fit_vs_allocations.md)."""
    sizes = {tensor.name: tensor.nbytes for tensor in experts}
    biased = any(name.endswith(".bias") for name in sizes)
    return sum(sizes.values()) if biased else max(sizes.values())
