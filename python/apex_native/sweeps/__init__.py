"""Many candidates, many machines: one reference, independent jobs, the same results anywhere.

    found = sweep("sweep.toml", "out")

Input: a definition (reference, texts, tasks, matrices, candidates). Output: `SweepOutcome`, results
files and reports. Jobs are values with a content hash; a store answers those that are known.
Without Ray they run in this process, with it on one machine or many.
"""

from __future__ import annotations

from apex_native.sweeps.call import sweep
from apex_native.sweeps.cluster import Cluster
from apex_native.sweeps.definition import SweepDefinition, load_definition, read_definition
from apex_native.sweeps.ledger import Failure
from apex_native.sweeps.progress import Standing, SweepProgress
from apex_native.sweeps.run import SweepOutcome
from apex_native.sweeps.store import SweepStore

__all__ = [
    "Cluster",
    "Failure",
    "Standing",
    "SweepDefinition",
    "SweepOutcome",
    "SweepProgress",
    "SweepStore",
    "load_definition",
    "read_definition",
    "sweep",
]
