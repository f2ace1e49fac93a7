"""Models larger than a GPU: which experts stay there, which pass through, how much text at once.

A prompt's arithmetic grows with its tokens, what has to be copied for it does not: with thousands
of tokens at once, weights can be read from the file and copied to the GPU while it computes with
those before them. Only routed experts are streamed; they are nearly all of such a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from apex_native._native import forward_log
from apex_native.errors import DeviceError

__all__ = [
    "CUDA_BYTES",
    "MAX_CHUNKS",
    "MAX_TOKENS",
    "N_PLACES",
    "LargeBatches",
    "StreamPlan",
    "fit_stream",
]

CUDA_BYTES = 896 << 20
"""What CUDA, cuBLAS and our own kernels take of a GPU beside what llama.cpp adds up: 746 MiB on an
H200."""

SCRATCH_PER_TOKEN = 40 << 10
"""Rounded inputs and results of products, in bytes: ggml takes them from a pool that nobody adds up
beforehand. 29 KiB on an H200 with F16 weights, between 8,192 and 16,384 tokens."""

BYTES_PER_TOKEN = 2 << 20
"""What surely comes while a token is computed: 25 GB/s, a bus of the fourth generation, and 12,000
tokens a second, an H100 with three billion active weights. More tokens at once would only take room
from layers that can stay."""

ENOUGH_TOKENS = 8192
"""At once, where nothing is streamed: more are no faster."""

MAX_TOKENS = 16_384
"""At once. llama.cpp sets address space aside for 40 nodes a token, each copied 60 times: 12 GiB
here, of which it touches little. (ggml's kernels end at 65,535 tokens, a grid's second dimension.)
"""

N_PLACES = 4
"""For streamed tensors: one is computed with, the others are on their way or there."""

MAX_CHUNKS = 256
"""At once, which llama.cpp calls sequences."""

_SEQUENCES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256)
_FEW = 4
"""Chunks at once that say how memory grows."""

_CELLS = 256
"""llama.cpp pads a sequence's cache to so many tokens."""

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(up|down|gate|gate_up)_(ch|)exps\.weight")
_HEADS = ("output.weight", "token_embd.weight")


@dataclass(frozen=True, slots=True)
class LargeBatches:
    """What is to be computed: n_chunks chunks of ctx tokens at most, with n_outputs outputs each.

    beside: bytes of the GPU that something else will take.
    """

    ctx: int
    n_chunks: int
    n_outputs: int
    beside: int = 0


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """n_sequences chunks go together; the experts of these layers are streamed, all else stays.

    nbytes: of the GPU at most, foreseen. A model without layers in its plan is all on the GPU.
    """

    n_sequences: int
    layers: tuple[int, ...] = ()
    nbytes: int = 0
    n_places: int = N_PLACES

    def sequences_for(self, n_chunks: int) -> int:
        """Chunks at once so that no pass is a small rest: each costs all streamed bytes."""
        n_passes = -(-n_chunks // self.n_sequences)
        return max(1, -(-n_chunks // max(1, n_passes)))


class Weights:
    """Bytes of a model's weights by what may be done with them.

    sizes: (name, bytes) of every tensor that is loaded; tied embeddings come twice.
    """

    def __init__(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Sort them."""
        self.experts: dict[int, int] = {}
        self.largest = 0
        named: dict[str, int] = {}
        for name, nbytes in sizes:
            match = _EXPERTS.fullmatch(name)
            if match is not None:
                layer = int(match.group(1))
                self.experts[layer] = self.experts.get(layer, 0) + nbytes
                self.largest = max(self.largest, nbytes)
            named[name] = nbytes
        self.head = next((named[name] for name in _HEADS if name in named), 0)


class _Fit:
    """Bytes of a GPU for each number of chunks at once."""

    def __init__(
        self, model: Any, weights: Weights, room: int, batches: LargeBatches, n_layers: int
    ) -> None:
        self.model = model
        self.weights = weights
        self.batches = batches
        self.room = room
        self.layers = [layer for layer in sorted(weights.experts) if layer < n_layers]
        self._known: dict[int, int] = {}

    def base(self, n: int) -> int:
        """All that does not depend on which layers are streamed, with n chunks at once.

        Caches and buffers grow with n alike; asking for many takes llama.cpp seconds.
        """
        few = min(_FEW, max(2, MAX_TOKENS // self.batches.ctx))
        if n == 1:
            return self.exact_base(1)
        one = self.exact_base(1)
        return one + (self.exact_base(few) - one) * (n - 1) // (few - 1)

    def exact_base(self, n: int) -> int:
        """The same, asked for."""
        if n not in self._known:
            batches = self.batches
            cells = -(-batches.ctx // _CELLS) * _CELLS
            uses = self.model.memory_use(
                n_ctx=n * cells,
                n_batch=n * batches.ctx,
                n_seq_max=n,
                n_outputs_max=n * batches.n_outputs,
            )
            held, cache, buffers = next(
                (use[1:4] for use in uses if use[0]), uses[-1][1:4]
            )  # the host's where there is no GPU
            streamable = sum(self.weights.experts[layer] for layer in self.layers)
            self._known[n] = (
                held - streamable - self.weights.head + cache + buffers + batches.beside
                + CUDA_BYTES + SCRATCH_PER_TOKEN * n * batches.ctx
            )  # fmt: skip
        return self._known[n]

    @cached_property
    def all_experts(self) -> int:
        return sum(self.weights.experts[layer] for layer in self.layers)

    @property
    def places(self) -> int:
        return min(N_PLACES, 3 * len(self.layers)) * self.weights.largest

    def plan(self, n: int, base: int) -> StreamPlan | None:
        """As many layers as there is room for stay; None where nothing helps."""
        if base + self.all_experts <= self.room:
            return StreamPlan(n, (), base + self.all_experts)
        left = self.room - base - self.places
        if left < 0:
            return None
        n_stay = 0
        for nbytes in sorted((self.weights.experts[layer] for layer in self.layers), reverse=True):
            if nbytes > left:
                break
            left -= nbytes
            n_stay += 1
        streamed = spread(self.layers, len(self.layers) - n_stay)
        stay = self.all_experts - self.streamed_bytes(streamed)
        return StreamPlan(n, streamed, base + self.places + stay)

    def streamed_bytes(self, layers: Iterable[int]) -> int:
        return sum(self.weights.experts[layer] for layer in layers)


def spread(layers: list[int], n: int) -> tuple[int, ...]:
    """So many of them, evenly: while one that stays is computed, the next ones come."""
    count = len(layers)
    return tuple(layers[i] for i in range(count) if (i + 1) * n // count > i * n // count)


def fit_stream(model: Any, gpu_memory: int, batches: LargeBatches) -> StreamPlan:
    """The plan of a native model for at most so many bytes of its GPU.

    model: headless, all layers on one GPU, without weights (no_alloc). As many chunks go together
    as hide the transfer; DeviceError, naming the least, where gpu_memory is too small.
    """
    weights = Weights(model.weight_bytes())
    fit = _Fit(model, weights, _room(model, gpu_memory), batches, model.n_layers)
    choices = [n for n in _SEQUENCES if n == 1 or n * batches.ctx <= MAX_TOKENS]
    choices = [n for n in choices if n < batches.n_chunks] + [min(batches.n_chunks, choices[-1])]
    best: StreamPlan | None = None
    for n in sorted(set(choices)):
        plan = fit.plan(n, fit.base(n))
        if plan is None:
            break
        if best is not None and not best.layers and plan.layers:
            break  # fewer at once need no streaming
        best = plan
        tokens = n * batches.ctx
        enough = BYTES_PER_TOKEN * tokens >= fit.streamed_bytes(plan.layers)
        if tokens >= ENOUGH_TOKENS and enough:
            break
    if best is None:
        least = fit.base(1) + min(fit.places, fit.all_experts)
        raise DeviceError(
            f"gpu_memory: {_gib(fit.room)} are too little for {model.path} with chunks of "
            f"{batches.ctx} tokens; it needs at least {_gib(least)}, with all experts streamed"
            + ("" if batches.ctx <= 512 else "; shorter chunks (`ctx`) take less")
        )
    found = _asked(fit, best)
    forward_log()
    return found


def _asked(fit: _Fit, foreseen: StreamPlan) -> StreamPlan:
    """The plan as llama.cpp adds it up; of fewer chunks where that is more than was foreseen."""
    for n in range(foreseen.n_sequences, 1, -1):
        plan = fit.plan(n, fit.exact_base(n))
        if plan is not None:
            return plan
    return fit.plan(1, fit.exact_base(1)) or foreseen


def _room(model: Any, gpu_memory: int) -> int:
    """gpu_memory, or what the GPU has free where that is less."""
    uses: list[tuple[str, int, int, int, int]] = model.memory_use(
        n_ctx=_CELLS, n_batch=1, n_seq_max=1, n_outputs_max=1
    )
    return min([gpu_memory, *(free for name, *_, free in uses if name)])


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
