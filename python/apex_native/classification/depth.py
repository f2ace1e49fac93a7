"""Trunk depth: how many blocks run for every token, and which are for multi-token prediction.

llama.cpp counts both kinds in ``<arch>.block_count`` and subtracts ``<arch>.nextn_predict_layers``
(src/llama-model.cpp ``load_hparams``, src/llama-hparams.cpp ``n_layer``), for every architecture
but those in ``_NEXTN_ONLY_IF_PRESENT``. Blocks that the graph runs several times (Nanbeige) are
stored once, and here they count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import GgufError
from ..types import GgufFacts
from .hparams import read_count
from .kind import FileKind, find_kind
from .names import TensorName

__all__ = ["MAX_LAYERS", "Depth", "find_depth"]

# LLAMA_MAX_LAYERS in src/llama-hparams.h of the pinned llama.cpp, which aborts above it.
MAX_LAYERS = 512

# For these, llama.cpp ignores nextn_predict_layers unless the first MTP block has its projection:
# all of block_count is trunk then (src/models/deepseek4.cpp, load_arch_hparams).
_NEXTN_ONLY_IF_PRESENT = frozenset({"deepseek4"})
_NEXTN_PROBE = "nextn.eh_proj"


class Depth(NamedTuple):
    """Blocks of the trunk, blocks including MTP, and what was doubtful about either."""

    n_layer: int
    n_layer_all: int
    warnings: tuple[str, ...]


def find_depth(facts: GgufFacts, names: Sequence[TensorName]) -> Depth:
    """Depth from the metadata; where that is silent, from the names and with a warning.

    Args:
        facts: Metadata and tensor table.
        names: The parsed names of ``facts.tensors``.

    Raises:
        GgufError: ``block_count`` is not in 1 to MAX_LAYERS, ``nextn_predict_layers`` exceeds it,
            or either is no count.
    """
    warnings: list[str] = []
    if find_kind(facts) is not FileKind.MODEL:
        blocks = max((name.layer + 1 for name in names if name.layer is not None), default=0)
        n_layer = max(_encoder_depth(facts), blocks)
        return Depth(n_layer, n_layer, ())
    n_layer_all = _block_count(facts, names, warnings)
    n_layer = n_layer_all - _nextn_count(facts, names, n_layer_all, warnings)
    if n_layer == 0 < n_layer_all:
        warnings.append(
            f"all {n_layer_all} blocks are for multi-token prediction: this is a draft model, "
            "it has no trunk that layer rules could match"
        )
    last = max((name.layer or 0 for name in names if name.stack == "blk"), default=-1)
    if n_layer_all <= last:
        warnings.append(
            f"block {last} exists, but the metadata counts only {n_layer_all} blocks; "
            f"blocks from {n_layer} on are taken for multi-token prediction"
        )
    return Depth(n_layer, n_layer_all, tuple(warnings))


def _encoder_depth(facts: GgufFacts) -> int:
    """Blocks of a projector file's encoder, the deeper one of two; 0 for what has none.

    clip.vision.block_count and clip.audio.block_count, tools/mtmd/clip-impl.h.
    """
    keys = (f"clip.{encoder}.block_count" for encoder in ("vision", "audio"))
    return max(read_count(facts.metadata, key) or 0 for key in keys)


def _block_count(facts: GgufFacts, names: Sequence[TensorName], warnings: list[str]) -> int:
    """``block_count``, or one more than the highest block index of any stack."""
    key = f"{facts.architecture}.block_count"
    declared = read_count(facts.metadata, key)
    if declared is not None and not 1 <= declared <= MAX_LAYERS:
        raise GgufError(
            f"metadata key '{key}': expected 1 to {MAX_LAYERS} (llama.cpp's LLAMA_MAX_LAYERS), "
            f"found {declared}; the file is damaged, convert the model again"
        )
    if declared is not None:
        return declared
    derived = max((name.layer + 1 for name in names if name.layer is not None), default=0)
    missing = f"metadata key '{key}'" if facts.architecture else "'general.architecture'"
    if derived > MAX_LAYERS:
        raise GgufError(
            f"{missing} is missing, and a tensor of block {derived - 1} was found where "
            f"{MAX_LAYERS} blocks is the most llama.cpp loads; convert the model again"
        )
    warnings.append(f"{missing} is missing: depth {derived} taken from the tensor names")
    return derived


def _nextn_count(
    facts: GgufFacts, names: Sequence[TensorName], n_layer_all: int, warnings: list[str]
) -> int:
    """``nextn_predict_layers``, or the number of last blocks that have ``nextn.*`` tensors."""
    key = f"{facts.architecture}.nextn_predict_layers"
    declared = read_count(facts.metadata, key)
    if declared is None:
        with_nextn = {name.layer for name in names if name.base.startswith("nextn.")}
        trunk = n_layer_all
        while trunk - 1 in with_nextn:
            trunk -= 1
        if trunk < n_layer_all:
            warnings.append(
                f"metadata key '{key}' is missing: blocks {trunk} to {n_layer_all - 1} taken for "
                "multi-token prediction, because they have nextn tensors"
            )
        return n_layer_all - trunk
    if declared > n_layer_all:
        raise GgufError(
            f"metadata key '{key}': expected at most the {n_layer_all} blocks of the model, "
            f"found {declared}; the file is damaged, convert the model again"
        )
    if facts.architecture in _NEXTN_ONLY_IF_PRESENT:
        first = n_layer_all - declared
        if not any(name.layer == first and name.base == _NEXTN_PROBE for name in names):
            return 0
    return declared
