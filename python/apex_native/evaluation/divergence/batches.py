"""Which candidates of two passes are loaded together: as many as the reference leaves room for."""

from __future__ import annotations

from collections.abc import Sequence

from apex_native.evaluation.model_source import ModelSource
from apex_native.gpu_layers import CONTEXT_BYTES

__all__ = ["bytes_of", "candidate_batches"]


def candidate_batches(
    reference: ModelSource, candidates: Sequence[ModelSource]
) -> list[tuple[int, ...]]:
    """Indices of candidates, in order, that take no more memory together than the reference did.

    The reference's head and its softmax are computed once for each batch. A candidate that is
    larger than the reference is a batch of its own.
    """
    room = bytes_of([reference])
    batches: list[tuple[int, ...]] = []
    for i in range(len(candidates)):
        joined = (*batches[-1], i) if batches else (i,)
        if batches and bytes_of([candidates[k] for k in joined]) <= room:
            batches[-1] = joined
        else:
            batches.append((i,))
    return batches


def bytes_of(sources: Sequence[ModelSource]) -> int:
    """What models take that are loaded together, each with a context; equal ones are one model."""
    return sum(source.nbytes for source in set(sources)) + len(sources) * CONTEXT_BYTES
