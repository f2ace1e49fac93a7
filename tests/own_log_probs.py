"""Our own log-probabilities of a quantized file, from a base file as llama-perplexity has them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import apex_native as apex
from apex_native.demo_text import demo_text

N_CTX = 64


@dataclass(frozen=True)
class OwnLogProbs:
    """rows: float32 [n, n_vocab]; row i is what follows tokens[: first + i + 1]."""

    tokens: npt.NDArray[np.int32]
    first: int
    rows: npt.NDArray[np.float32]


def own_log_probs(model: Path, folder: Path) -> OwnLogProbs:
    """Of the second half of a chunk; what is less likely than e^-16 of the best is cut there."""
    text, base = folder / "text.txt", folder / "base"
    text.write_text(demo_text(2_000, seed=5))
    apex.evaluate(model, [], text, ctx=N_CTX, chunks=1, save_base=base)
    raw = base.read_bytes()
    n_ctx, n_vocab, _ = struct.unpack("<iii", raw[8:20])
    tokens = np.frombuffer(raw, np.int32, n_ctx, 20)
    width = (n_vocab + 1) // 2 * 2 + 4
    coded = np.frombuffer(raw, np.uint16, offset=20 + 4 * n_ctx).reshape(-1, width)
    scale = coded[:, :4].copy().view(np.float32)
    rows = scale[:, 1:] + scale[:, :1] * coded[:, 4 : 4 + n_vocab]
    return OwnLogProbs(tokens, n_ctx // 2, rows.astype(np.float32))
