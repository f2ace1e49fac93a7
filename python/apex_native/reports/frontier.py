"""Which files are worth their size."""

from __future__ import annotations

from collections.abc import Iterable

from apex_native.results import Candidate

__all__ = ["kld_frontier"]


def kld_frontier(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that no other one beats in both size and mean KLD, the smallest first.

    Candidates without a size or a KLD are left out; of several with the same size and KLD all stay.
    """
    known = [
        (candidate.bytes, candidate.kld_mean, i, candidate)
        for i, candidate in enumerate(candidates)
        if candidate.bytes and candidate.kld_mean is not None
    ]
    found: list[Candidate] = []
    best: tuple[float, int] | None = None
    for nbytes, kld, _, candidate in sorted(known, key=lambda item: item[:3]):
        if best is None or kld < best[0] or (kld, nbytes) == best:
            found.append(candidate)
            best = (kld, nbytes)
    return tuple(found)
