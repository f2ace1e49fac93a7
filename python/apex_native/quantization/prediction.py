"""Everything a run checks before its first byte, without writing one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.plan import Plan
from apex_native.quantization.inputs import check_inputs
from apex_native.quantization.output import (
    Split,
    plan_outputs,
    require_disk_space,
    require_fresh,
)
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["PredictedFile", "dry_run"]


@dataclass(frozen=True, slots=True)
class PredictedFile:
    """A file the run would write, with its exact size."""

    path: Path
    nbytes: int


def dry_run(
    source: WeightSource,
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    imatrix: Imatrix | None = None,
    split_max_size: int | None = None,
    keep_split: bool = False,
    allow_requantize: bool = False,
    force: bool = False,
    imatrix_follows: bool = False,
) -> tuple[PredictedFile, ...]:
    """The files `quantize_model` would write with these arguments.

    imatrix_follows: the importance matrix will be collected first, the plan does not have it yet.

    Raises what it would raise before it starts: PlanError, ImatrixError, OutputError (exists, is
    the input, disk full).
    """
    check_inputs(
        source,
        plan,
        imatrix,
        allow_requantize=allow_requantize,
        imatrix_follows=imatrix_follows,
    )
    shards = plan_outputs(plan, Path(output), Split(split_max_size, keep_split), source)
    require_fresh(shards, source.shard_paths, force=force)
    require_disk_space(shards)
    return tuple(PredictedFile(shard.path, shard.layout.total_bytes) for shard in shards)
