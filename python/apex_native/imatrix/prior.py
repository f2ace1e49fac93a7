"""What to believe of an expert that calibration hardly saw: a prior, weighed against its tokens.

An expert no token reached gets weight 1 in every column from llama-quantize; one reached by three
tokens gets the squares of three activations. `with_prior` shrinks such profiles toward a mean that
many tokens support:

    values = (n · own mean + k · prior mean) / (n + k)

with n the expert's tokens. The prior mean is the layer's (all experts' sums over all their tokens),
or the expert's own over a pass with every expert active, where the file holds one. Only routed
weights change: the scale of a row of weights does not matter to a quantizer, its shape does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Imatrix, ImatrixEntry

__all__ = ["DEFAULT_PRIOR", "Prior", "parse_prior", "with_prior"]

PriorSource = Literal["layer", "all-experts"]


@dataclass(frozen=True, slots=True)
class Prior:
    """A prior worth strength tokens (k), from the layer's mean or the pass with all experts."""

    strength: float
    source: PriorSource = "layer"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ImatrixError(
                f"a prior is worth a number of tokens from 0, found {self.strength}; "
                "give none, auto or a number"
            )

    def __str__(self) -> str:
        return f"{self.source}:{self.strength:g}"


DEFAULT_PRIOR = Prior(1024.0)
"""What "auto" means; bench/imatrix_prior.py measures it (bench/results/imatrix_prior.md)."""


def parse_prior(text: str) -> Prior | None:
    """``none``, ``auto``, ``K``, ``layer:K`` or ``all-experts:K``; K in tokens.

    Raises ImatrixError for anything else.
    """
    if text == "none":
        return None
    if text == "auto":
        return DEFAULT_PRIOR
    source, _, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if source not in ("", "layer", "all-experts") or math.isnan(strength):
        raise ImatrixError(
            f"'{text}' is no prior; give none, auto, a number of tokens, or all-experts:K"
        )
    return Prior(strength, "all-experts" if source == "all-experts" else "layer")


def with_prior(imatrix: Imatrix, prior: Prior | None) -> Imatrix:
    """The matrix with the values of its routed weights shrunk; sums and counts stay.

    None gives back the file's own values: what llama-quantize uses, to the byte. Raises
    ImatrixError where the prior wants a pass with all experts that the matrix does not hold.
    """
    entries = {name: _shrunk(name, entry, prior) for name, entry in imatrix.entries.items()}
    changed = any(entry.is_routed for entry in entries.values())
    return replace(
        imatrix,
        entries=MappingProxyType(entries),
        prior=None if prior is None or not changed else str(prior),
    )


def _shrunk(name: str, entry: ImatrixEntry, prior: Prior | None) -> ImatrixEntry:
    plain = ImatrixEntry.from_sums(entry.sums, entry.counts, entry.all_experts)
    if prior is None or not entry.is_routed or not entry.counts.any():
        return plain
    means, known = _prior_means(name, entry, prior)
    counts = entry.counts[:, None]
    weight = np.where(known[:, None], prior.strength, 0.0)
    total = counts + weight
    # Without tokens there is nothing to weigh the prior against, however little it is worth.
    alone = known[:, None] & (counts == 0)
    values = np.divide(
        entry.sums.astype(np.float64) + weight * means,
        total,
        out=np.where(alone, means, plain.values.astype(np.float64)),
        where=(total > 0) & ~alone,
    )
    return replace(plain, values=values.astype(np.float32))


def _prior_means(
    name: str, entry: ImatrixEntry, prior: Prior
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Mean profile (n_experts, n_per_row) of each expert's prior, and which experts have one."""
    if prior.source == "layer":
        mean = entry.sums.sum(axis=0, dtype=np.float64) / entry.counts.sum()
        return np.broadcast_to(mean, entry.sums.shape), np.ones(len(entry.counts), bool)
    if entry.all_experts is None:
        raise ImatrixError(
            f"'{name}': the matrix holds no pass with all experts, which this prior is made of; "
            "collect it with --all-experts"
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
