"""A matrix made ready for one model: which entry serves which tensor, under which prior."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Floats, Imatrix, ImatrixEntry
from apex_native.imatrix.prior import DEFAULT_PRIOR, Prior, parse_prior, prior_values
from apex_native.imatrix.same_input import related_entries, same_input_entries
from apex_native.plan import EntryDoubts, ImatrixSummary
from apex_native.types import GgufFacts

__all__ = ["Importance"]

FEW_TOKENS = 64
"""Below it an expert's profile is a guess: the mean square of 64 normal values is known to
sqrt(2 / 64) = 18 %."""


class Importance:
    """What the quantizers of one model take of a matrix.

    Both planning and quantizing go through here, so that what is said is what is done.
    """

    def __init__(
        self, imatrix: Imatrix, facts: GgufFacts, prior: Prior | str | None = DEFAULT_PRIOR
    ) -> None:
        """Prior as `parse_prior` reads it; None is llama-quantize's values."""
        self.imatrix = imatrix
        self._prior = parse_prior(prior) if isinstance(prior, str) else prior
        self._same_input = same_input_entries(imatrix.entries, facts)
        self._related = related_entries(imatrix.entries, facts, self._same_input)
        self._entries = {
            tensor.name: entry.cut(tensor.n_expert_slices)
            for tensor in facts.tensors
            if (entry := imatrix.entries.get(self._source(tensor.name))) is not None
            and entry.sums.size == tensor.n_per_row * tensor.n_expert_slices
        }
        _require_all_experts(self._entries, self._prior)

    def _source(self, tensor: str) -> str:
        return self._same_input.get(tensor, tensor)

    def values(self, tensor: str) -> Floats:
        """Weights for a tensor, float32 (n_slices, n_per_row); KeyError where none fit it."""
        return prior_values(tensor, self._entries[tensor], self._prior)

    @property
    def prior(self) -> str | None:
        """The prior, where it changes anything; None: the values are llama-quantize's."""
        if self._prior is None:
            return None
        prior = self._prior
        changes = any(_changes(entry, prior) for entry in self._entries.values())
        return str(prior) if changes else None

    def summary(self) -> ImatrixSummary:
        """What planning needs: names, sizes and doubts, no values."""
        imatrix = self.imatrix
        doubts = {name: _doubts(entry) for name, entry in self._entries.items()}
        return ImatrixSummary(
            entries={
                name: (entry.values.shape[1], entry.values.shape[0])
                for name, entry in imatrix.entries.items()
            },
            sha256=imatrix.sha256,
            file=imatrix.path.name,
            chunk_count=imatrix.chunk_count,
            datasets=imatrix.datasets,
            prior=self.prior,
            same_input=MappingProxyType(self._same_input),
            unusable=MappingProxyType(self._related),
            doubts=MappingProxyType({name: d for name, d in doubts.items() if d is not None}),
            fills_gaps=self._prior is not None,
        )


def _require_all_experts(entries: Mapping[str, ImatrixEntry], prior: Prior | None) -> None:
    """Find out now, and not at the first tensor, that a prior's second pass is missing."""
    if prior is None or prior.source == "layer":
        return
    for name, entry in entries.items():
        if entry.is_routed and entry.all_experts is None:
            raise ImatrixError(
                f"'{name}': the matrix holds no pass with all experts, which this prior is made "
                "of; collect it with `all_experts=True`"
            )


def _changes(entry: ImatrixEntry, prior: Prior) -> bool:
    if entry.is_routed or not entry.informative.all():
        return True
    least = prior.floor * entry.values.mean(axis=1, dtype=np.float64, keepdims=True)
    return bool((entry.values < least).any())


def _doubts(entry: ImatrixEntry) -> EntryDoubts | None:
    """What the entry does not tell, None if it tells all."""
    speaks = entry.informative
    few = speaks & (entry.counts < FEW_TOKENS) & entry.counts_tokens
    silent = int((entry.values[speaks] == 0).any(axis=0).sum()) if speaks.any() else 0
    if speaks.all() and not few.any() and not silent:
        return None
    return EntryDoubts(
        n_slices=len(speaks),
        unseen=tuple(int(i) for i in np.flatnonzero(~speaks)),
        few=tuple(int(i) for i in np.flatnonzero(few)),
        silent_columns=silent,
        n_columns=entry.values.shape[1],
    )
