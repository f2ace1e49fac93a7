"""Tensors that read one input choose together what to believe of its moments: nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.types import GgmlType
from gguf_builder import f32_tensor, write_gguf
from test_cuda import needs_gpu
from test_feedback import correlated_moment, packed, some_weights

COLUMNS = 256
COUNTS = (500, 40, 0)
"""Experts with inputs to hold out, with too few, with none."""

NAMES = ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight")
Found = tuple[bytes, dict[str, Any]]


def moments(seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    """Arrays as `core.feedback` takes them; COUNTS tokens in either half."""
    means = [packed(correlated_moment(COLUMNS, seed + i, 300)) for i in range(6)]
    halves = [np.array([m * n for m, n in zip(means[i::2], COUNTS, strict=True)], np.float32)
              for i in range(2)]  # fmt: skip
    counts = np.array(COUNTS, np.int64)
    return {"total": halves[0] + halves[1], "part": halves[0], "counts": 2 * counts,
            "part_counts": counts}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Iterator[apex.GgufFile]:
    """Two tensors of other rows, and of other numbers of rows."""
    gate = np.stack([some_weights(20, COLUMNS) for _ in COUNTS])
    up = np.stack([some_weights(33, COLUMNS)[::-1] for _ in COUNTS])
    up *= np.linspace(0.2, 3.0, COLUMNS, dtype=np.float32)
    tensors = [f32_tensor(name, w) for name, w in zip(NAMES, (gate, up), strict=True)]
    with apex.GgufFile(write_gguf(tmp_path / "model.gguf", tensors)) as file:
        yield file


def quantized(
    source: apex.GgufFile, folder: Path, name: str, *, together: bool, on_gpu: bool = False
) -> list[Found]:
    """Bytes and errors of both."""
    arrays, type = moments(), GgmlType.parse(name)
    devices = core.FeedbackDevices([0], n_places=2, n_per_row=COLUMNS) if on_gpu else None
    with (folder / "out.bin").open("w+b") as output:
        made, tasks = [], []
        for i in range(len(NAMES)):
            tensor = source.native.stored_tensor(i)
            beside = made[0] if made and together else None
            made.append(core.feedback(tensor, type.id, **arrays, devices=devices, beside=beside))
            tasks.append(
                core.QuantizeTask(
                    tensor, type.id, output_fd=output.fileno(), output_offset=i << 20,
                    converter=made[i],
                )
            )  # fmt: skip
        job = core.QuantizeJob(tasks, n_threads=2, max_memory=1 << 30)
        try:
            while not job.finished:
                job.wait(1000)
            errors = [job.output_errors(i) for i in range(len(NAMES))]
        finally:
            job.close()
        found = []
        for i, tensor in enumerate(source.tensors):
            output.seek(i << 20)
            found.append((output.read(type.tensor_bytes(tensor.shape)), errors[i]))
        return found


@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "IQ4_XS", "IQ3_S"])
def test_choices_made_together_are_those_made_alone(
    source: apex.GgufFile, tmp_path: Path, name: str
) -> None:
    together = quantized(source, tmp_path, name, together=True)
    assert together == quantized(source, tmp_path, name, together=False)
    assert together[0][1]["held_out_ggml_error"] != together[1][1]["held_out_ggml_error"]


@needs_gpu
@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "IQ4_XS"])
def test_a_gpu_fits_two_tensors_of_one_input(
    source: apex.GgufFile, tmp_path: Path, name: str
) -> None:
    on_gpu = quantized(source, tmp_path, name, together=True, on_gpu=True)
    assert on_gpu == quantized(source, tmp_path, name, together=False)


def test_what_lies_beside_has_the_same_moments_and_type(source: apex.GgufFile) -> None:
    gate, up = source.native.stored_tensor(0), source.native.stored_tensor(1)
    arrays = moments()
    first = core.feedback(gate, GgmlType.Q4_K.id, **arrays)
    with pytest.raises(ValueError, match="under the same second moments"):
        core.feedback(up, GgmlType.Q4_K.id, **moments(seed=2), beside=first)
    with pytest.raises(ValueError, match="another type or number of matrices"):
        core.feedback(up, GgmlType.Q5_K.id, **arrays, beside=first)
