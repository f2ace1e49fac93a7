"""A second opinion on experts calibration hardly saw: a pass in which every expert is active."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from apex_native.errors import ImatrixError
from apex_native.imatrix.entries import Imatrix
from apex_native.imatrix.files import sealed

__all__ = ["with_all_experts"]


def with_all_experts(imatrix: Imatrix, all_pass: Imatrix) -> Imatrix:
    """The matrix with the other's routed sums beside its own, for priors made of them.

    all_pass was collected from the same model loaded with expert_used_count set to all experts. The
    own sums and counts stay as they are, and so does what llama.cpp reads. Raises ImatrixError
    where the two have different experts.
    """
    entries = {}
    for name, entry in imatrix.entries.items():
        other = all_pass.entries.get(name)
        if not entry.is_routed or other is None:
            entries[name] = entry
            continue
        if other.sums.shape != entry.sums.shape:
            raise ImatrixError(
                f"'{name}' has {entry.sums.shape} sums, the pass with all experts "
                f"{other.sums.shape}; collect both from one model"
            )
        entries[name] = replace(entry, all_experts=(other.sums, other.counts))
    settings = {**imatrix.settings, "all_experts": dict(all_pass.settings)}
    return sealed(replace(imatrix, entries=MappingProxyType(entries), settings=settings))
