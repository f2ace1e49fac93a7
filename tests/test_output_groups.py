"""The output's rows in groups: moments are numpy's, each group is fitted under its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.imatrix import HessianFile, InputMoment, output_groups
from apex_native.imatrix.output_groups import SHARED_TOKENS
from apex_native.types import GgmlType
from calibration_models import N_VOCAB, expected_sums, expert_weights, with_bos, write_expert_model
from gguf_builder import f32_tensor, write_gguf
from test_cuda import needs_gpu
from test_feedback import correlated_moment, packed, some_weights
from tolerances import MOMENT_RTOL

CTX, N_CHUNKS = 32, 20
TIED = "token_embd.weight"

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def tokens() -> npt.NDArray[np.int32]:
    return np.random.default_rng(5).integers(3, N_VOCAB, N_CHUNKS * CTX).astype(np.int32)


@pytest.fixture(scope="module")
def grouped(
    tmp_path_factory: pytest.TempPathFactory, tokens: npt.NDArray[np.int32]
) -> Iterator[InputMoment]:
    folder = tmp_path_factory.mktemp("groups")
    path = write_expert_model(folder / "experts.gguf")
    with apex.load_model(path, n_threads=2) as model:
        apex.collect_imatrix(model, tokens, ctx=CTX, batch=4 * CTX, hessian=folder / "hessian.gguf")
    with HessianFile(folder / "hessian.gguf") as file:
        moment = file.hessian.moment_of(TIED)
        assert moment is not None
        yield moment


def test_rows_lie_near_their_groups_mean(grouped: InputMoment) -> None:
    groups, rows = grouped.groups, expert_weights()[TIED].astype(np.float64)
    assert groups is not None
    assert len(groups) == N_VOCAB
    rows -= rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([rows[groups == i].sum(axis=0) for i in range(len(grouped.counts))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (np.argmax(rows @ means.T, axis=1) == groups).mean() > 0.95


def test_moments_are_those_of_numpy(grouped: InputMoment, tokens: npt.NDArray[np.int32]) -> None:
    inputs = expected_sums(expert_weights(), with_bos(tokens, CTX)).output_inputs
    logits = inputs @ expert_weights()[TIED].astype(np.float64).T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert grouped.groups is not None
    member = grouped.groups[:, None] == np.arange(len(grouped.counts))
    weights = (p * (1 - p)) @ member
    in_part = np.arange(len(inputs)) // (4 * CTX) % 2 == 1
    expected_part = blended(inputs[in_part], weights[in_part])
    expected_rest = blended(inputs[~in_part], weights[~in_part])
    for i in range(len(grouped.counts)):
        rest, part = expected_rest[i], expected_part[i]
        assert grouped.part_counts[i] == round(part[0])
        assert grouped.counts[i] == round(part[0]) + round(rest[0])
        moment = round(part[0]) * part[1] + round(rest[0]) * rest[1]
        scale = np.sqrt(np.outer(np.diag(moment), np.diag(moment)))
        error = np.abs(grouped.dense(i) * grouped.counts[i] - moment) / scale
        assert error.max() < MOMENT_RTOL


def blended(inputs: Floats, weights: Floats) -> list[tuple[float, Floats]]:
    """Tokens and mean moment of each group, with the plain moment blended in."""
    sums = np.einsum("tg,ti,tj->gij", weights, inputs, inputs)
    mean, shared = inputs.T @ inputs / len(inputs), SHARED_TOKENS * inputs.shape[1] / 2
    tokens = weights.sum(axis=0) + shared
    return [(float(n), (one + shared * mean) / n) for n, one in zip(tokens, sums, strict=True)]


def quantized(
    tensor: Any, output: int, feedback: Any, type: GgmlType
) -> tuple[bytes, dict[str, Any]]:
    task = core.QuantizeTask(tensor, type.id, output_fd=output, output_offset=0, converter=feedback)
    job = core.QuantizeJob([task], n_threads=2, max_memory=1 << 30)
    try:
        while not job.finished:
            job.wait(1000)
        return Path(f"/proc/self/fd/{output}").read_bytes(), job.output_errors(0)
    finally:
        job.close()


def moments_of_groups() -> dict[str, Any]:
    part = np.array([packed(correlated_moment(256, seed)) for seed in (1, 2)], np.float32) * 400
    return {
        "total": 2 * part, "part": part, "counts": np.array([800, 800]),
        "part_counts": np.array([400, 400]),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_S"])
def test_each_group_has_the_bytes_it_has_alone(tmp_path: Path, output: int, name: str) -> None:
    type, weights = GgmlType.parse(name), some_weights(700 if name == "Q4_K" else 60, 256)
    groups = np.random.default_rng(3).integers(0, 2, len(weights)).astype(np.int32)
    row_bytes = 256 // type.block_size * type.block_bytes
    moments = moments_of_groups()
    whole = write_gguf(tmp_path / "whole.gguf", [f32_tensor("output.weight", weights)])
    with apex.open_gguf(whole) as source:
        tensor = source.native.stored_tensor(0)
        feedback = core.grouped_feedback(tensor, type.id, groups=groups, **moments)
        stored, errors = quantized(tensor, output, feedback, type)
    rows = np.frombuffer(stored[: len(weights) * row_bytes], np.uint8).reshape(-1, row_bytes)
    total = 0.0
    for group in range(2):
        own = write_gguf(
            tmp_path / f"{group}.gguf", [f32_tensor("output.weight", weights[groups == group])]
        )
        with apex.open_gguf(own) as source:
            tensor = source.native.stored_tensor(0)
            one = {key: np.ascontiguousarray(value[group][None]) for key, value in moments.items()}
            found, alone = quantized(tensor, output, core.feedback(tensor, type.id, **one), type)
        expected = found[: int((groups == group).sum()) * row_bytes]
        assert rows[groups == group].tobytes() == expected
        total += alone["error"]
    assert errors["error"] == pytest.approx(total, rel=1e-12)
    assert errors["n_slices"] == 2


@needs_gpu
def test_a_gpu_fits_groups_with_the_cpus_bytes(tmp_path: Path, output: int) -> None:
    type, weights = GgmlType.parse("Q3_K"), some_weights(300, 256)
    groups = np.random.default_rng(3).integers(0, 2, len(weights)).astype(np.int32)
    path = write_gguf(tmp_path / "whole.gguf", [f32_tensor("output.weight", weights)])
    found = []
    for devices in (None, core.FeedbackDevices([0], n_places=2, n_per_row=256)):
        with apex.open_gguf(path) as source:
            tensor = source.native.stored_tensor(0)
            feedback = core.grouped_feedback(
                tensor, type.id, groups=groups, devices=devices, **moments_of_groups()
            )
            found.append(quantized(tensor, output, feedback, type))
    assert found[0] == found[1]


def test_groups_without_moments_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [f32_tensor("output.weight", some_weights(8, 256))])
    with apex.open_gguf(path) as source:
        tensor = source.native.stored_tensor(0)

        def feedback(groups: list[int]) -> None:
            core.grouped_feedback(
                tensor, GgmlType.Q4_K.id, groups=np.array(groups, np.int32), **moments_of_groups()
            )

        with pytest.raises(ValueError, match="a row of group 2, there are 2"):
            feedback([0, 1, 2, 0, 1, 0, 1, 0])
        with pytest.raises(ValueError, match="groups: expected 8 elements, found 3"):
            feedback([0, 1, 0])


def test_one_moment_for_all_rows_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    tokens: npt.NDArray[np.int32],
) -> None:
    def refuse(*_args: Any) -> Any:
        raise apex.ModelError("its logits are not those of one product")

    monkeypatch.setattr(output_groups, "run_interruptible", refuse)
    path = write_expert_model(tmp_path / "experts.gguf")
    with apex.load_model(path, n_threads=2) as model:
        apex.collect_imatrix(model, tokens, ctx=CTX, hessian=tmp_path / "hessian.gguf")
    assert "under one moment for all its rows: its logits are not" in caplog.text
    with HessianFile(tmp_path / "hessian.gguf") as file:
        moment = file.hessian.moment_of(TIED)
    assert moment is not None
    assert moment.groups is None


def test_computed_rows_are_fitted_under_one_moment(grouped: InputMoment) -> None:
    one = grouped.ungrouped()
    assert one.groups is None
    np.testing.assert_allclose(one.total, grouped.total.sum(axis=0)[None], rtol=1e-6)
    assert one.ungrouped() is one
