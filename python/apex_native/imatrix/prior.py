"""What to believe of an expert that calibration hardly saw: a prior, weighed against its tokens.

An expert no token reached gets weight 1 in every column from llama-quantize; one reached by three
tokens gets the squares of three activations. A prior shrinks such profiles toward a mean that many
tokens support:

    values = (n · own mean + k · prior mean) / (n + k)

with n the expert's tokens. The prior mean is the layer's (all experts' sums over all their tokens),
or the expert's own over a pass with every expert active, where the file holds one.

A column that the text left silent has weight 0, and several of ggml's quantizers write such columns
as zeros. A prior therefore raises every column to a small share (floor) of its row's mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Floats, ImatrixEntry

__all__ = ["DEFAULT_PRIOR", "Prior", "parse_prior", "prior_values"]

PriorSource = Literal["layer", "all-experts"]

Doubles = npt.NDArray[np.float64]

COLUMN_FLOOR = 1e-3
"""Least weight of a column, as a share of its row's mean; bench/imatrix_floor.py measured it
(bench/results/imatrix_floor.md)."""


@dataclass(frozen=True, slots=True)
class Prior:
    """A prior worth strength tokens (k), from the layer's mean or the pass with all experts.

    floor: least weight of a column, as a share of its row's mean; 0 leaves silent columns at 0.
    """

    strength: float
    source: PriorSource = "layer"
    floor: float = COLUMN_FLOOR

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ImatrixError(
                f"a prior is worth a number of tokens from 0, found {self.strength}; "
                "give none, auto or a number"
            )
        if not 0 <= self.floor < 1:
            raise ImatrixError(
                f"a prior's floor is a share of the row's mean from 0 to below 1, found "
                f"{self.floor}; leave it out for the default"
            )

    def __str__(self) -> str:
        return f"{self.source}:{self.strength:g}+floor:{self.floor:g}"


DEFAULT_PRIOR = Prior(1024.0)
"""What "auto" means, for the command line and for Python; bench/imatrix_prior.py measures it
(bench/results/imatrix_prior.md)."""


def parse_prior(text: str) -> Prior | None:
    """``none``, ``auto``, ``K``, ``layer:K`` or ``all-experts:K``, each with ``+floor:F``.

    K in tokens, F a share. Raises ImatrixError for anything else.
    """
    if text == "none":
        return None
    if text == "auto":
        return DEFAULT_PRIOR
    weight, _, floor = text.partition("+floor:")
    source, _, number = weight.rpartition(":")
    strength = _number(number)
    share = _number(floor) if "+" in text else COLUMN_FLOOR
    if source not in ("", "layer", "all-experts") or math.isnan(strength) or math.isnan(share):
        raise ImatrixError(
            f"'{text}' is no prior; give none, auto, a number of tokens, or all-experts:K"
        )
    return Prior(strength, "all-experts" if source == "all-experts" else "layer", share)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def prior_values(name: str, entry: ImatrixEntry, prior: Prior | None) -> Floats:
    """What the quantizers take of an entry, float32 (n_slices, n_per_row).

    None gives what llama-quantize takes, to the byte. Otherwise slices are shrunk where there are
    several, one that says nothing gets the prior alone (1 everywhere where no slice says anything),
    and no column is below the floor. Raises ImatrixError where the prior wants a pass with all
    experts that the matrix does not hold; name is for that message.
    """
    if prior is None:
        return entry.values
    values = entry.values.astype(np.float64)
    speaks = entry.informative
    values[~speaks] = 1.0
    if entry.is_routed and speaks.any():
        values = _shrunk(name, entry, values, prior)
    least = prior.floor * values.mean(axis=1, keepdims=True)
    raised: Floats = np.maximum(values, least).astype(np.float32)
    return raised


def _shrunk(name: str, entry: ImatrixEntry, own: Doubles, prior: Prior) -> Doubles:
    speaks = entry.informative
    means, known = _prior_means(name, entry, prior)
    if not entry.counts_tokens:  # nothing to weigh by: only what says nothing takes the prior
        return np.where(speaks[:, None], own, means)
    counts = np.where(speaks, entry.counts, 0.0)[:, None]
    sums = np.where(speaks[:, None], entry.sums, 0.0).astype(np.float64)
    weight = np.where(known[:, None], prior.strength, 0.0)
    total = counts + weight
    # Without tokens there is nothing to weigh the prior against, however little it is worth.
    alone = known[:, None] & (counts == 0)
    shrunk: Doubles = np.where(alone, means, own)
    np.divide(sums + weight * means, total, out=shrunk, where=(total > 0) & ~alone)
    return shrunk


def _prior_means(
    name: str, entry: ImatrixEntry, prior: Prior
) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Mean profile (n_experts, n_per_row) of each expert's prior, and which experts have one."""
    if prior.source == "layer":
        speaks = entry.informative
        if entry.counts_tokens:
            sums = entry.sums[speaks].sum(axis=0, dtype=np.float64)
            mean = sums / entry.counts[speaks].sum()
        else:
            mean = entry.values[speaks].mean(axis=0, dtype=np.float64)
        return np.broadcast_to(mean, entry.sums.shape), np.ones(len(entry.counts), bool)
    if entry.all_experts is None:
        raise ImatrixError(
            f"'{name}': the matrix holds no pass with all experts, which this prior is made of; "
            "collect it with `all_experts=True`"
        )
    sums, counts = entry.all_experts
    known = counts > 0
    means = np.divide(
        sums.astype(np.float64),
        counts[:, None],
        out=np.ones(sums.shape),
        where=known[:, None],
    )
    return means, known
