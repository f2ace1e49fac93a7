"""What an error of a token's embedding costs: the second moment that takes an input's place there.

A product reads every other weight; embeddings are looked up, and no calibration collects anything
for them. What is added to an embedding goes through the norms of the first layer into the weights
that read the residual stream there: with g a norm's factors and W such weights, an error e costs
|W (g e)|^2. The sum of both norms' readers, each weight and each norm with the same voice, is the
metric that rows of embeddings are fitted under.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.imatrix import Hessian, InputMoment
from apex_native.machine import usable_threads
from apex_native.types import TensorInfo
from apex_native.weights import WeightSource, read_rows

__all__ = ["EMBEDDING", "embedding_hessian"]

EMBEDDING = "token_embd.weight"

_READERS = (
    (
        ("attn_norm",),
        (
            *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "attn_q_a", "attn_kv_a_mqa"),
            *("ssm_in", "ssm_alpha", "ssm_beta", "ssm_ba"),
        ),
    ),
    (
        ("ffn_norm", "post_attention_norm"),
        (
            *("ffn_gate_inp", "ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps"),
            *("ffn_gate_up_exps", "ffn_gate_shexp", "ffn_up_shexp"),
        ),
    ),
)
"""Of a layer: names of a norm, the first that is there, and of what reads behind it."""


def embedding_hessian(source: WeightSource, like: Hessian | None = None) -> Hessian | None:
    """The metric of `EMBEDDING` as moments of one token; None where the model has no such reader.

    like: moments it is added to; those stay as they are where they know the embedding, as a model
    does whose output is tied to it.
    """
    if like is not None and EMBEDDING in like.input_of:
        return like
    infos = {tensor.name: tensor for tensor in source.facts.tensors}
    if EMBEDDING not in infos:
        return like
    n = infos[EMBEDDING].n_per_row
    moments = [_behind_norm(source, infos, *names) for names in _READERS]
    found = [moment for moment in moments if moment is not None]
    if not found:
        return like
    total = np.sum(found, axis=0)
    moment = InputMoment(
        n_per_row=n,
        total=(total * (n / _trace(total, n)))[None].astype(np.float32),
        part=np.zeros((1, len(total)), np.float32),
        counts=np.ones(1, np.int64),
        part_counts=np.zeros(1, np.int64),
        is_exact=True,
    )
    if like is None:
        return Hessian({EMBEDDING: moment}, {EMBEDDING: EMBEDDING}, "", 1, {})
    return Hessian(
        {**like.inputs, EMBEDDING: moment}, {**like.input_of, EMBEDDING: EMBEDDING},
        like.digest, like.n_tokens, like.settings, like.path,
    )  # fmt: skip


def _behind_norm(
    source: WeightSource,
    infos: dict[str, TensorInfo],
    norms: tuple[str, ...],
    readers: tuple[str, ...],
) -> npt.NDArray[np.float64] | None:
    """Packed, of trace 1: every weight that reads the first layer's norm, with the same voice."""
    n = infos[EMBEDDING].n_per_row
    names = [name for r in readers if (name := f"blk.0.{r}.weight") in infos]
    names = [name for name in names if infos[name].n_per_row == n and len(infos[name].shape) > 1]
    if not names:
        return None
    factors = _norm_factors(source, infos, norms, n)
    total = np.zeros(n * (n + 1) // 2)
    for name in names:
        moment = core.weight_moment(source.stored_tensor(name), factors, n_threads=usable_threads())
        trace = _trace(moment, n)
        if trace > 0:
            total += moment / trace
    whole = _trace(total, n)
    return total / whole if whole > 0 else None


def _norm_factors(
    source: WeightSource, infos: dict[str, TensorInfo], norms: tuple[str, ...], n: int
) -> npt.NDArray[np.float32] | None:
    for norm in norms:
        info = infos.get(f"blk.0.{norm}.weight")
        if info is not None and info.shape == (n,):
            return _row(source, info)
    return None


def _row(source: WeightSource, info: TensorInfo) -> npt.NDArray[np.float32]:
    stored = read_rows(source, info.name, 0, 1)
    values: Any = core.dequantize_rows(stored, info.type.id, info.n_per_row)
    return np.ascontiguousarray(values.reshape(-1), np.float32)


def _trace(packed: npt.NDArray[np.float64], n: int) -> float:
    rows = np.arange(n)
    return math.fsum(packed[rows * (rows + 1) // 2 + rows])
