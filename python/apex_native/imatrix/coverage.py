"""Which experts calibration saw, and how unevenly."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.imatrix.entries import Imatrix

__all__ = ["Coverage", "RouterCoverage", "expert_coverage", "gini"]

LEAST_SHARE = 0.01
"""The tail that is listed by name: the least-hit 1 % of all experts."""


def gini(counts: npt.NDArray[np.float64]) -> float:
    """Gini coefficient: 0 where all experts see as many tokens, near 1 where one sees all.

    sum_i (2i - n - 1) x_i / (n sum x) over the sorted counts, i from 1; 0 without tokens.
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    n = len(counts)
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float((ranks * np.sort(counts)).sum() / (n * total))


@dataclass(frozen=True, slots=True, eq=False)
class RouterCoverage:
    """One router's choices: the tokens of each expert, float64 (n_experts,).

    weights are the tensors behind that router, which all have these counts.
    """

    layer: int
    weights: tuple[str, ...]
    counts: npt.NDArray[np.float64]

    @property
    def n_experts(self) -> int:
        """How many experts there are."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Visits of all experts: tokens times the experts a token goes to."""
        return int(self.counts.sum())

    @property
    def never_hit(self) -> tuple[int, ...]:
        """Experts no token reached."""
        return tuple(int(i) for i in np.flatnonzero(self.counts == 0))

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Each expert's share of the visits; zeros without any."""
        shares: npt.NDArray[np.float64] = self.counts / max(self.counts.sum(), 1.0)
        return shares

    @property
    def gini(self) -> float:
        """How unevenly the experts are hit: see `gini`."""
        return gini(self.counts)


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """All routers of a model, by layer."""

    routers: tuple[RouterCoverage, ...]

    @property
    def n_experts(self) -> int:
        """Experts of all layers together."""
        return sum(router.n_experts for router in self.routers)

    @property
    def never_hit(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) of those no token reached."""
        return tuple((r.layer, expert) for r in self.routers for expert in r.never_hit)

    @property
    def least_tokens(self) -> int | None:
        """Tokens of the expert that saw the fewest; None without experts."""
        return min((int(r.counts.min()) for r in self.routers), default=None)

    def least_hit(self, share: float = LEAST_SHARE) -> tuple[tuple[int, int, int], ...]:
        """(layer, expert, tokens) of the least-hit share of all experts, at least one of them."""
        ranked = sorted(
            (int(count), r.layer, expert)
            for r in self.routers
            for expert, count in enumerate(r.counts)
        )
        n_listed = math.ceil(share * len(ranked))
        return tuple((layer, expert, count) for count, layer, expert in ranked[:n_listed])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: totals, the tail, and every count."""
        return {
            "n_experts": self.n_experts,
            "least_tokens": self.least_tokens,
            "never_hit": [list(pair) for pair in self.never_hit],
            "least_hit_1_percent": [
                {"layer": layer, "expert": expert, "tokens": tokens}
                for layer, expert, tokens in self.least_hit()
            ],
            "layers": [
                {
                    "layer": router.layer,
                    "weights": list(router.weights),
                    "visits": router.total,
                    "gini": router.gini,
                    "never_hit": list(router.never_hit),
                    "tokens": [int(count) for count in router.counts],
                    "share": [float(share) for share in router.shares],
                }
                for router in self.routers
            ],
        }


def expert_coverage(imatrix: Imatrix) -> Coverage:
    """Token counts of every routed weight, those with the same counts in a layer taken as one.

    Legacy files do not know experts: no routers.
    """
    groups: dict[tuple[int, bytes], list[str]] = {}
    for name, entry in imatrix.entries.items():
        if entry.is_routed:
            groups.setdefault((_layer(name), entry.counts.tobytes()), []).append(name)
    routers = [
        RouterCoverage(layer, tuple(sorted(names)), imatrix.entries[names[0]].counts)
        for (layer, _), names in groups.items()
    ]
    return Coverage(tuple(sorted(routers, key=_order)))


def _order(router: RouterCoverage) -> tuple[int, Sequence[str]]:
    return router.layer, router.weights


def _layer(name: str) -> int:
    match = re.search(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1
