"""A model that computes: loaded in llama.cpp, in this process, on CPU or GPU.

Input: a GGUF file with weights. Output: `Model`, which tokenizes and generates; calibration and
evaluation take it. Everything that could make llama.cpp abort is checked before it sees it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from apex_native._native import core, forward_log
from apex_native.closable import Closable
from apex_native.errors import DeviceError
from apex_native.gpu_layers import fit_gpu_layers, has_gpu
from apex_native.hub import local_gguf
from apex_native.interrupt import run_interruptible
from apex_native.machine import default_threads, free_memory, usable_threads
from apex_native.requirements import ModelTraits
from apex_native.streaming import LargeBatches, StreamPlan, fit_stream

__all__ = [
    "GPU_UBATCH",
    "UBATCH",
    "FlashAttention",
    "GpuLayers",
    "Model",
    "Placement",
    "SplitMode",
    "Tokens",
    "load_model",
]

UBATCH = 512
"""Tokens computed at once, llama.cpp's default (common/common.h)."""

GPU_UBATCH = 2048
"""llama.cpp's default n_batch; with 512 a GPU mostly waits for the next kernel to start."""

MAX_STREAM_THREADS = 32
"""That read weights and copy them to a GPU: each gave 2 GiB/s from memory, 16 gave 30."""

Tokens = npt.NDArray[np.int32]
SplitMode = Literal["none", "layer", "row"]
FlashAttention = Literal["auto", "on", "off"]
GpuLayers = int | Literal["auto"]


def load_model(
    path: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    n_gpu_layers: GpuLayers = 0,
    gpu_reserve: int = 0,
    devices: Sequence[str] = (),
    main_gpu: int = 0,
    split_mode: SplitMode = "layer",
    tensor_split: Sequence[float] = (),
    use_mmap: bool = True,
    repack: bool = True,
    load_mtp: bool = False,
    vocab_only: bool = False,
    flash_attn: FlashAttention = "auto",
    expert_used_count: int | None = None,
    gpu_memory: int | None = None,
    batches: LargeBatches | None = None,
    stream: StreamPlan | None = None,
) -> Model:
    """Load a model; Ctrl-C is heard.

    n_threads: threads of everything done with it, default all. n_gpu_layers: -1 puts all layers on
    the GPU, "auto" as many as its free memory holds with cache and buffers, beside gpu_reserve
    bytes for what comes later, and none where there is no GPU. devices: ggml's names ("CUDA0"),
    default all. repack: let ggml rearrange weights for this CPU, as llama.cpp's programs do.
    flash_attn: how attention is computed, "auto" as llama.cpp's programs decide (on, unless the
    model or device cannot); it moves results in their last digits.
    load_mtp: load the multi-token-prediction block too. vocab_only: tokenizer only.
    expert_used_count: experts a token goes to, default the file's.
    gpu_memory: bytes of one GPU at most, for a model that computes hidden states of `batches` and
    no logits; experts that do not fit are streamed (`apex_native.streaming`). stream: such a plan,
    made before, for a GPU or (n_gpu_layers=0) the CPU.

    Raises GgufError where the file is damaged or holds no weights, ModelError with llama.cpp's
    reason where it refuses the file, DeviceError for a GPU that is not here or has no room. path
    may be an address on the hub, as for `open_gguf`.
    """
    stop = core.StopFlag()
    settings: dict[str, Any] = {
        "devices": list(devices),
        "main_gpu": main_gpu,
        "split_mode": split_mode,
        "tensor_split": list(tensor_split),
        "use_mmap": use_mmap,
        "repack": repack,
        "load_mtp": load_mtp,
        "vocab_only": vocab_only,
        "flash_attn": flash_attn,
        "expert_used_count": expert_used_count or 0,
        **_reading(n_threads),
        "stop": stop,
    }
    file = os.fspath(local_gguf(path))

    def load(n: int, **more: Any) -> Any:
        return core.Model(file, n_gpu_layers=n, **{**settings, **more})

    def open_native() -> tuple[Any, StreamPlan | None]:
        if gpu_memory is not None:
            plan = _plan_stream(load, gpu_memory, batches)
            return load(-1, **_streamed(plan)), plan
        n = 0 if vocab_only else _count_layers(n_gpu_layers, load, gpu_reserve)
        return load(n, **({} if stream is None else _streamed(stream))), stream

    native, plan = run_interruptible(open_native, stop.set)
    forward_log()
    return Model(native, n_threads or default_threads(), plan)


def _reading(n_threads: int | None) -> dict[str, int]:
    """How a native model gets its weights: ahead of llama.cpp, onto GPUs, and through one."""
    n = min(n_threads or usable_threads(), MAX_STREAM_THREADS)
    return {
        "read_ahead_bytes": free_memory() or 0,
        "n_upload_threads": n,
        "n_stream_threads": n,
    }


def _count_layers(n: GpuLayers, load: Callable[..., Any], reserve: int) -> int:
    if n != "auto":
        return n
    return fit_gpu_layers(lambda k: load(k, no_alloc=True), reserve=reserve) if has_gpu() else 0


def _plan_stream(load: Callable[..., Any], nbytes: int, batches: LargeBatches | None) -> StreamPlan:
    """Raises DeviceError without a GPU, ValueError where nobody said what is to be computed."""
    if batches is None:
        raise ValueError(
            "`gpu_memory` is for texts and importance matrices, whose chunks are computed many at "
            "once; leave it out for tasks, speed tests and generation"
        )
    if not has_gpu():
        raise DeviceError(
            "`gpu_memory` needs a GPU, and this build or machine has none; leave it out"
        )
    model = load(-1, no_alloc=True, headless=True, split_mode="none")
    return fit_stream(model, nbytes, batches)


def _streamed(plan: StreamPlan) -> dict[str, Any]:
    """Arguments of a native model: on one GPU, headless, whatever it streams."""
    return {
        "split_mode": "none",
        "headless": True,
        "streamed_layers": list(plan.layers),
        "n_places": plan.n_places,
    }


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lies and what computes it; fields and defaults are `load_model`'s."""

    n_threads: int | None = None
    n_gpu_layers: GpuLayers = 0
    gpu_reserve: int = 0
    devices: tuple[str, ...] = ()
    main_gpu: int = 0
    split_mode: SplitMode = "layer"
    tensor_split: tuple[float, ...] = ()
    use_mmap: bool = True
    repack: bool = True
    flash_attn: FlashAttention = "auto"
    gpu_memory: int | None = None
    batches: LargeBatches | None = None
    stream: StreamPlan | None = None

    @property
    def one_at_a_time(self) -> bool:
        """Models are loaded one after the other, without their heads."""
        return self.gpu_memory is not None or self.stream is not None

    @property
    def on_gpu(self) -> bool:
        """Layers are on a GPU."""
        if self.gpu_memory is not None:
            return True
        return has_gpu() if self.n_gpu_layers == "auto" else self.n_gpu_layers != 0

    @property
    def all_on_gpu(self) -> bool:
        """Once loaded it needs its file no more, or of that the embeddings alone."""
        return self.n_gpu_layers == -1 and not self.one_at_a_time

    @property
    def quantizing_device(self) -> str:
        """What quantizes candidates that are computed there: "cpu", or a GPU as in "cuda:1"."""
        if not (self.on_gpu and has_gpu()):
            return "cpu"
        named = self.devices[0] if self.devices else f"CUDA{self.main_gpu}"
        return f"cuda:{named.removeprefix('CUDA')}" if named.startswith("CUDA") else "cpu"

    @property
    def is_left_open(self) -> bool:
        """All layers on GPUs, or as many as fit, and nothing said about which GPUs."""
        chosen = self.devices or self.tensor_split or self.main_gpu or self.split_mode != "layer"
        return self.n_gpu_layers in (-1, "auto") and not chosen and not self.one_at_a_time

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        load_mtp: bool = False,
        expert_used_count: int | None = None,
    ) -> Model:
        """Load a model there; errors are `load_model`'s."""
        return load_model(
            path,
            load_mtp=load_mtp,
            expert_used_count=expert_used_count,
            n_threads=self.n_threads,
            n_gpu_layers=self.n_gpu_layers,
            gpu_reserve=self.gpu_reserve,
            devices=self.devices,
            main_gpu=self.main_gpu,
            split_mode=self.split_mode,
            tensor_split=self.tensor_split,
            use_mmap=self.use_mmap,
            repack=self.repack,
            flash_attn=self.flash_attn,
            gpu_memory=self.gpu_memory,
            batches=self.batches,
            stream=self.stream,
        )


class Model(Closable):
    """A loaded model. Use it in a ``with`` statement, or call `close`, to free its memory."""

    def __init__(self, native: Any, n_threads: int, stream: StreamPlan | None = None) -> None:
        """Wrap a native model; `load_model` makes one."""
        self._native: Any = native
        self.n_threads = n_threads
        self.stream = stream
        """How it is computed, where it has no head; None for any other."""

    def close(self) -> None:
        """Free the model once nothing computes with it; later calls raise ValueError."""
        self._native = None

    @property
    def native(self) -> Any:
        """The extension's own object, for the stages that hand it to native code."""
        if self._native is None:
            raise ValueError("this model was closed")
        return self._native

    @property
    def path(self) -> str:
        """Where it was loaded from."""
        return str(self.native.path)

    @property
    def description(self) -> str:
        """llama.cpp's own: architecture, size, type."""
        return str(self.native.description)

    @cached_property
    def traits(self) -> ModelTraits:
        """What the model can do; of one loaded with vocab_only, its vocabulary only."""
        return ModelTraits(**core.traits_of(self.native))

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return int(self.native.n_parameters)

    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return int(self.native.n_vocab)

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return int(self.native.n_embd)

    @property
    def n_ctx_train(self) -> int:
        """Longest context the model was made for, in tokens."""
        return int(self.native.n_ctx_train)

    @property
    def expert_used_count(self) -> int | None:
        """Experts a token goes to if `load_model` was told, None for the file's own number."""
        return int(self.native.expert_used_count) or None

    @property
    def on_gpu(self) -> bool:
        """Some of its layers are on a GPU."""
        return bool(self.native.on_gpu)

    @property
    def load_mtp(self) -> bool:
        """The multi-token-prediction block was loaded too."""
        return bool(self.native.load_mtp)

    @property
    def add_bos(self) -> bool:
        """A text begins with the BOS token."""
        return bool(self.native.add_bos)

    @property
    def bos_token(self) -> int:
        """The BOS token, -1 where there is none."""
        return int(self.native.bos_token)

    @property
    def eos_token(self) -> int:
        """The EOS token, -1 where there is none; chat templates may ask for its text."""
        return int(self.native.eos_token)

    @cached_property
    def eos_tokens(self) -> tuple[int, ...]:
        """The tokens that end a generation."""
        return tuple(self.native.end_tokens)

    @cached_property
    def chat_template(self) -> str | None:
        """The model's Jinja template for conversations, if it has one."""
        template = self.native.chat_template
        return None if template is None else str(template)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary: equal for models whose tokens mean the same."""
        return hashlib.sha256(self.native.vocabulary_bytes()).hexdigest()

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Tokens of a text, int32 (n,).

        add_special: with the tokens the model wants around a text, as BOS. parse_special: text
        that spells a special token becomes that token; else it stays plain characters.
        """
        tokens: Tokens = self.native.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )
        return tokens

    def detokenize(self, tokens: Tokens | Sequence[int]) -> str:
        """The text of tokens, special ones as they are spelled; broken UTF-8 is replaced."""
        array = np.ascontiguousarray(tokens, dtype=np.int32)
        text: bytes = self.native.detokenize(array)
        return text.decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """The text of one token."""
        return self.detokenize([token])

    def generate(
        self,
        prompt: Tokens | Sequence[int],
        *,
        n_predict: int = 256,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int = 0,
    ) -> Tokens:
        """Continue a prompt, int32 (at most n_predict,); the same seed gives the same tokens.

        Ends after a token of `eos_tokens`, which is included. temperature 0 always takes the
        likeliest token. Raises ValueError for an empty prompt, tokens outside the vocabulary and
        settings out of range.
        """
        stop = core.StopFlag()
        array = np.ascontiguousarray(prompt, dtype=np.int32)
        tokens: Tokens = run_interruptible(
            lambda: self.native.generate(
                array,
                n_predict=n_predict,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                n_threads=self.n_threads,
                stop=stop,
            ),
            stop.set,
        )
        return tokens
