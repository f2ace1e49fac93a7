"""INT4 checkpoints: what their weights were rounded to, Q4_0 holds without loss.

A weight is a group's scale times an integer in [-8, 7], a Q4_0 block of 32 weights is a scale (F16)
times integers in [-8, 7]. ggml's own quantizer puts the largest weight at -8, so [-7, 7] grids
(Kimi's) lose an eighth of their scale's exactness there; here the scale is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.conversion.lazy import is_lazy, leaves_of, operation_of
from apex_native.conversion.upstream import upstream
from apex_native.errors import CheckpointError

__all__ = ["as_q4_0", "has_int4_grid", "is_packed", "packed_as_q4_0"]

_BLOCK = 32
_MOST = (7, 8, 6, 5, 4, 3, 2, 1)
"""What the largest weight of a block may be a multiple by, the likeliest first."""


def has_int4_grid(config: Any) -> bool:
    """Does a quantization_config say 4-bit integers around zero, in groups of whole blocks?"""
    if not isinstance(config, Mapping):
        return False
    if config.get("quant_method") == "gptq":
        size, bits, symmetric = (config.get(key) for key in ("group_size", "bits", "sym"))
    else:
        groups = config.get("config_groups")
        first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
        weights = first.get("weights") if isinstance(first, Mapping) else None
        if config.get("format") != "pack-quantized" or not isinstance(weights, Mapping):
            return False
        size, bits, symmetric = (weights.get(k) for k in ("group_size", "num_bits", "symmetric"))
    in_blocks = isinstance(size, int) and size > 0 and size % _BLOCK == 0
    return bits == 4 and symmetric is True and in_blocks


def is_packed(array: Any) -> bool:
    """Is a lazy array computed from packed integers?"""
    return is_lazy(array) and any(leaf.dtype == "I32" for leaf in leaves_of(array))


def packed_as_q4_0(array: Any) -> Any:
    """A lazy array of Q4_0 bytes in place of one whose values were to be rounded to 16 bits."""
    operation = operation_of(array)
    inner = operation.args[0] if operation.name.endswith("quantize_array") else array
    lazy = upstream().gguf.LazyNumpyTensor
    shape = (*inner.shape[:-1], inner.shape[-1] // _BLOCK * 18)
    return lazy(meta=lazy.meta_with_dtype_and_shape(np.uint8, shape), args=(inner,), func=as_q4_0)


def as_q4_0(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Q4_0 blocks with exactly these values; rows along the last dimension, as bytes.

    Raises CheckpointError where a block of 32 weights is no F16 scale times integers in [-8, 7].
    """
    blocks = np.ascontiguousarray(weights, np.float32).reshape(-1, _BLOCK)
    scales = np.zeros(len(blocks), np.float32)
    numbers = np.zeros(blocks.shape, np.int8)
    left = np.flatnonzero(blocks.any(axis=1))
    for most in _MOST:
        if not left.size:
            break
        found, scale, number = _on_grid(blocks[left], most)
        scales[left[found]], numbers[left[found]] = scale[found], number[found]
        left = left[~found]
    if left.size:
        raise CheckpointError(
            f"{left.size:,} of {len(blocks):,} blocks of 32 weights are no scale times integers in "
            "[-8, 7]: Q4_0 does not hold them exactly; leave `int4_as_q4_0=True` out"
        )
    packed = np.empty((len(blocks), 18), np.uint8)
    packed[:, :2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    codes = (numbers + 8).astype(np.uint8)
    packed[:, 2:] = codes[:, :16] | (codes[:, 16:] << 4)
    return packed.reshape(*weights.shape[:-1], weights.shape[-1] // _BLOCK * 18)


def _on_grid(
    blocks: npt.NDArray[np.float32], most: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Which blocks are a scale times integers, the largest of them most; scales and integers."""
    scale = np.abs(blocks).max(axis=1) / np.float32(most)
    number = blocks / scale[:, None]
    whole = (number == np.rint(number)) & (number >= -8) & (number <= 7)
    with np.errstate(over="ignore"):
        fits = scale.astype(np.float16).astype(np.float32) == scale
    exact = (number * scale[:, None] == blocks).all(axis=1)
    return whole.all(axis=1) & fits & exact, scale, number
