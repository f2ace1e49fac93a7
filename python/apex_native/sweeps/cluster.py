"""Where workers run, as a caller says it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cluster"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of Ray: address of a running cluster, None to start one on this machine.

    workers: how many, default one a GPU, or one a machine without GPUs. The placement's n_threads
    are each worker's; default an equal share of its machine.
    """

    address: str | None = None
    workers: int | None = None
