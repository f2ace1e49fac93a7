"""The call behind `apex_native.sweep`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_native.argument_kinds import require_kind
from apex_native.engine import Placement
from apex_native.sweeps.cluster import Cluster
from apex_native.sweeps.definition import SweepDefinition, load_definition, read_definition
from apex_native.sweeps.output import SweepFolder
from apex_native.sweeps.progress import ShowSweep
from apex_native.sweeps.run import SweepOutcome, run_sweep

__all__ = ["sweep"]


def sweep(
    definition: SweepDefinition | Mapping[str, Any] | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | None = None,
    ray: bool = False,
    address: str | None = None,
    workers: int | None = None,
    placement: Placement | None = None,
    report: bool = True,
    resume: bool = False,
    force: bool = False,
    progress: ShowSweep | None = None,
    cancel: threading.Event | None = None,
) -> SweepOutcome:
    """Measure many candidates against one reference, in this process or on a Ray cluster.

        found = apex.sweep("sweep.toml", "out")
        found = apex.sweep({"reference": "bf16.gguf", "texts": [{"file": "wiki.txt"}],
                            "candidates": [{"tier": ["quality", "compact"]}]}, "out", ray=True)

    Args:
        definition: a TOML file, what one holds, or a `SweepDefinition`.
        output: a folder for the store, the results and the report.
        store: another file for the store, which several sweeps share one after the other.
        ray: with workers that Ray starts on this machine.
        address: with workers on a running Ray cluster (``auto``, ``host:6379``).
        workers: how many, default one a GPU, or one a machine without GPUs.
        placement: threads and GPU layers of each worker.
        report: write the report with its plots.
        resume: go on with, or add to, the sweep in the folder.
        force: start again in a folder that has one.
        progress: called when a job is done, and about ten times a second.
        cancel: stops the sweep with Cancelled once it is set; what is done is kept.

    Raises:
        DataError: the definition, a text or a task file; workers that differ in version, build or
            hardware; a store that is in use or damaged.
        PlanError: no candidate can be made. GgufError, ModelError: the reference.
        OutputError: the folder has a sweep, or cannot be written. Single jobs that fail are in the
            outcome's failures.
    """
    require_kind(
        *("definition", definition, (SweepDefinition, Mapping, str, os.PathLike)),
        "give the path of a TOML file, or what it holds",
    )
    if isinstance(definition, str | os.PathLike):
        definition = load_definition(definition)
    elif isinstance(definition, Mapping):
        definition = read_definition(definition)
    if workers is not None and not (ray or address):
        raise ValueError("workers are Ray's: pass ray=True or an address with them")
    folder = SweepFolder.open(
        Path(output), None if store is None else Path(store), resume=resume, force=force
    )
    return run_sweep(
        definition,
        folder,
        placement=placement or Placement(),
        cluster=Cluster(address, workers) if ray or address else None,
        with_report=report,
        progress=progress,
        cancel=cancel,
    )
