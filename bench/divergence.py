"""KLD of several quantized files from the demo model, all of one text computed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import apex_native as apex
from apex_native.evaluation import Text
from apex_native.imatrix import read_text

CTX = 512


@dataclass(frozen=True)
class Divergence:
    """Mean KLD in nats with its standard error; low and high: 95 % interval of its difference from
    the first file's, both drawn from the same chunks; p99: the 99 % quantile over positions."""

    kld: float
    error: float
    low: float | None
    high: float | None
    p99: float | None = None


def text_end(path: Path, n_bytes: int) -> str:
    """The last n_bytes of a text, from a line's beginning."""
    tail = read_text([path]).encode()[-n_bytes:].decode(errors="ignore")
    return tail[tail.find("\n") + 1 :]


def divergences(files: Sequence[Path], text: str, threads: int) -> list[Divergence]:
    """One row for each file; the first is what the others are compared with."""
    results = apex.evaluate(
        apex.demo_model(),
        files,
        Text("text", text),
        ctx=CTX,
        noise_chunks=0,
        router=False,
        n_threads=threads,
    ).results
    rows = []
    first = results.candidates[0].name
    for candidate in results.candidates:
        low = high = None
        for comparison in results.comparisons:
            if comparison.metric == "kld_mean" and {comparison.first, comparison.second} == {
                first,
                candidate.name,
            }:
                low, high = comparison.low, comparison.high
                if comparison.first == first:
                    low, high = -high, -low
        assert candidate.kld_mean is not None
        assert candidate.kld_se is not None
        rows.append(Divergence(candidate.kld_mean, candidate.kld_se, low, high, candidate.kld_p99))
    return rows


def calibration_chunks(model: apex.Model, texts: Sequence[Path], n_chunks: int) -> np.ndarray:
    """Chunk i comes from text i % n: (n_chunks * CTX,) tokens."""
    tokens = [model.tokenize(read_text([p]), add_special=True, parse_special=False) for p in texts]
    taken = []
    for i in range(n_chunks):
        text, at = tokens[i % len(texts)], i // len(texts)
        taken.append(text[at * CTX : (at + 1) * CTX])
    return np.concatenate(taken)
