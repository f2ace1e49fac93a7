"""What llama.cpp reads from a tensor's name: its category, its layer, its place in the order."""

from __future__ import annotations

import re
from enum import Enum, auto

__all__ = ["TensorCategory", "category_of", "is_token_embedding", "layer_number", "weights_map_key"]


class TensorCategory(Enum):
    """``tensor_category`` of llama-quant.cpp: the unit in which its mixes speak.

    Coarser than ``Role`` and decided by substrings, so ``attn_qkv`` of a gated delta net counts
    as attention and ``ffn_gate_up_exps`` as a gate.
    """

    OUTPUT = auto()
    TOKEN_EMBD = auto()
    ATTENTION_QKV = auto()
    ATTENTION_KV_B = auto()
    ATTENTION_V = auto()
    ATTENTION_K = auto()
    ATTENTION_Q = auto()
    ATTENTION_OUTPUT = auto()
    FFN_UP = auto()
    FFN_GATE = auto()
    FFN_DOWN = auto()
    OTHER = auto()

    @property
    def is_attn_v(self) -> bool:
        """True for the tensors that share attn_v's rules and counter (``category_is_attn_v``)."""
        return self in _ATTN_V_LIKE


_ATTN_V_LIKE = frozenset(
    {TensorCategory.ATTENTION_V, TensorCategory.ATTENTION_QKV, TensorCategory.ATTENTION_KV_B}
)

_TOKEN_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})

_BY_SUBSTRING = (
    ("attn_qkv.weight", TensorCategory.ATTENTION_QKV),
    ("attn_kv_b.weight", TensorCategory.ATTENTION_KV_B),
    ("attn_v.weight", TensorCategory.ATTENTION_V),
    ("attn_k.weight", TensorCategory.ATTENTION_K),
    ("attn_q.weight", TensorCategory.ATTENTION_Q),
    ("attn_output.weight", TensorCategory.ATTENTION_OUTPUT),
    ("ffn_up", TensorCategory.FFN_UP),
    ("ffn_gate", TensorCategory.FFN_GATE),
    ("ffn_down", TensorCategory.FFN_DOWN),
)
"""First match wins, as in ``tensor_get_category``."""

_BLOCK = re.compile(r"blk\.\s*([+-]?[0-9]+)")
"""What ``sscanf(name, "blk.%d.")`` converts; it does not need the dot after the number."""


def is_token_embedding(name: str) -> bool:
    """True for the embedding tables (``tensor_name_match_token_embd``)."""
    return name in _TOKEN_EMBEDDINGS


def category_of(name: str) -> TensorCategory:
    """The category llama.cpp's mixes put a tensor of this name in."""
    if name == "output.weight":
        return TensorCategory.OUTPUT
    if is_token_embedding(name):
        return TensorCategory.TOKEN_EMBD
    found = (category for part, category in _BY_SUBSTRING if part in name)
    return next(found, TensorCategory.OTHER)


def layer_number(name: str) -> int | None:
    """The N of ``blk.N.``, None for names that do not start so."""
    match = _BLOCK.match(name)
    return int(match.group(1)) if match else None


def weights_map_key(name: str) -> tuple[int, bytes]:
    """Sort key of llama.cpp's ``weights_map``: layer (-1 outside the blocks), then name bytes.

    The counters of the mixes advance in this order, whatever the order in the file.
    """
    layer = layer_number(name)
    return (-1 if layer is None else layer, name.encode("utf-8", "surrogateescape"))
