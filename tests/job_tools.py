"""What the tests of native jobs share: a model of one tensor, and jobs run to their end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import gguf_builder as build
from apex_native._native import core
from apex_native.gguf import GgufFile, open_gguf

if TYPE_CHECKING:
    from apex_native._core import QuantizeTask

SOON = 30.0
"""Half the timeout that a call which is not woken would wait for; what is woken takes one unit of
work, some 7 ms, on whatever machine."""


def model(tmp_path: Path, weights: npt.ArrayLike) -> GgufFile:
    """A file with the one float32 tensor t.weight."""
    path = tmp_path / "model.gguf"
    return open_gguf(build.write_gguf(path, [build.f32_tensor("t.weight", weights)]))


def gaussian(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(11).standard_normal(shape, dtype=np.float32)


def start(
    file: GgufFile, *tasks: tuple[Any, ...], n_threads: int = 2, devices: Sequence[int] = ()
) -> Any:
    return core.QuantizeJob(
        [of_tensor(file, task) for task in tasks],
        n_threads=n_threads,
        max_memory=2**30,
        devices=list(devices),
    )


def of_tensor(file: GgufFile, task: tuple[Any, ...]) -> QuantizeTask:
    """Of (tensor's number, type, descriptor, offset, importances or None)."""
    index, type_id, descriptor, offset, imatrix = task
    return core.QuantizeTask(
        file.native.stored_tensor(index),
        type_id,
        output_fd=descriptor,
        output_offset=offset,
        imatrix=imatrix,
    )


def finish(job: Any) -> list[tuple[int, float, float, int]]:
    """All (task, squared error, squared weights, checksum) of a job."""
    done = []
    while not job.finished:
        done += job.wait(60_000)
    return done
