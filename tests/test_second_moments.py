"""Second moments: collected as numpy has them, kept exactly, the same whatever way they are had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native.demo import demo_model
from apex_native.demo_text import demo_text
from apex_native.errors import ImatrixError, OutputError
from apex_native.imatrix import Hessian, HessianFile, LayeredHessian, plan_collection
from calibration_models import (
    N_VOCAB,
    expected_sums,
    expert_weights,
    with_bos,
)
from held_windows import calls_running, hold_second_window
from tolerances import MOMENT_RTOL

CTX = 32


def some_tokens(n: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(5).integers(3, N_VOCAB, n).astype(np.int32)


def collect(
    model: apex.Model, folder: Path, n_chunks: int = 20, **options: object
) -> tuple[apex.Imatrix, Path]:
    path = folder / "hessian.gguf"
    imatrix = apex.collect_imatrix(
        model,
        some_tokens(n_chunks * CTX),
        ctx=CTX,
        batch=4 * CTX,
        output=folder / "imatrix.gguf",
        hessian=path,
        **options,  # type: ignore[arg-type]
    )
    return imatrix, path


def test_moments_are_those_of_numpy(expert_model: apex.Model, tmp_path: Path) -> None:
    imatrix, path = collect(expert_model, tmp_path)
    expected = expected_sums(expert_weights(), with_bos(some_tokens(20 * CTX), CTX))
    with HessianFile(path) as file:
        hessian = file.hessian
        assert hessian.input_of.keys() == imatrix.entries.keys()
        for name, moments in expected.moments.items():
            found = hessian.moment_of(name)
            assert found is not None
            if found.groups is not None:  # test_output_groups.py
                continue
            np.testing.assert_array_equal(found.counts, expected.counts[name], err_msg=name)
            scale = np.sqrt(np.einsum("kii,kjj->kij", moments, moments))
            for i, count in enumerate(found.counts):
                error = np.abs(found.dense(i) * count - moments[i]) / np.maximum(scale[i], 1e-30)
                assert error.max() < MOMENT_RTOL, (name, i)


def test_the_diagonal_is_the_importance_matrix(expert_model: apex.Model, tmp_path: Path) -> None:
    imatrix, path = collect(expert_model, tmp_path)
    with HessianFile(path) as file:
        for name, entry in imatrix.entries.items():
            moment = file.hessian.moment_of(name)
            assert moment is not None
            if moment.groups is not None:
                continue
            n = moment.n_per_row
            diagonal = np.arange(n) * (np.arange(n) + 3) // 2
            np.testing.assert_array_equal(moment.total[:, diagonal], entry.sums, err_msg=name)


def test_an_input_that_weights_share_is_stored_once(
    expert_model: apex.Model, tmp_path: Path
) -> None:
    _, path = collect(expert_model, tmp_path)
    with HessianFile(path) as file:
        of = file.hessian.input_of
        assert of["blk.0.ffn_up_exps.weight"] == of["blk.0.ffn_gate_exps.weight"]
        assert len({of[f"blk.0.attn_{kind}.weight"] for kind in "qkv"}) == 1
        # The experts see the router's input, but each only its own tokens.
        assert of["blk.0.ffn_up_exps.weight"] != of["blk.0.ffn_gate_inp.weight"]
        assert set(file.hessian.inputs) == set(of.values())


def test_the_part_holds_every_second_group_of_chunks(
    expert_model: apex.Model, tmp_path: Path
) -> None:
    _, path = collect(expert_model, tmp_path)
    tokens = with_bos(some_tokens(20 * CTX), CTX).reshape(5, 4 * CTX)
    expected = expected_sums(expert_weights(), tokens[1::2].ravel())
    with HessianFile(path) as file:
        moment = file.hessian.moment_of("blk.0.ffn_down_exps.weight")
        assert moment is not None
        counts = expected.counts["blk.0.ffn_down_exps.weight"]
        np.testing.assert_array_equal(moment.part_counts, counts)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_change_nothing(expert_model: apex.Model, tmp_path: Path, n_threads: int) -> None:
    _, path = collect(expert_model, tmp_path)
    with apex.load_model(expert_model.path, n_threads=n_threads) as other:
        (tmp_path / "other").mkdir()
        _, same = collect(other, tmp_path / "other")
    assert path.read_bytes() == same.read_bytes()


def test_a_resumed_collection_ends_with_the_same_bytes(
    expert_model: apex.Model, tmp_path: Path
) -> None:
    _, whole = collect(expert_model, tmp_path)
    folder = tmp_path / "resumed"
    folder.mkdir()

    def stop(progress: apex.imatrix.ImatrixProgress) -> None:
        if progress.chunks_done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(expert_model, folder, progress=stop, checkpoint_every=4)
    assert not (folder / "hessian.gguf").exists()
    _, resumed = collect(expert_model, folder, resume=True)
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("ahead", [False, True])
def test_layer_by_layer_gives_the_same_moments(
    expert_model: apex.Model, tmp_path: Path, ahead: bool
) -> None:
    _, path = collect(expert_model, tmp_path)
    plan = plan_collection(expert_model, some_tokens(20 * CTX), ctx=CTX, batch=4 * CTX)
    with HessianFile(path) as file:
        whole = file.hessian
        max_memory = 1_200_000 if ahead else 600_000
        layered = LayeredHessian(expert_model, plan, max_memory=max_memory, ahead=ahead)
        assert layered.digest == whole.digest
        windows = layered.plan_windows(layered.all_weights())
        assert len(windows) > 1
        seen: list[str] = []
        for weights, hessian in layered.windows(layered.all_weights()):
            seen += weights
            for weight in weights:
                mine, its = hessian.moment_of(weight), whole.moment_of(weight)
                assert mine is not None
                assert its is not None
                np.testing.assert_array_equal(mine.total, its.total, err_msg=weight)
                np.testing.assert_array_equal(mine.part, its.part, err_msg=weight)
                np.testing.assert_array_equal(mine.counts, its.counts, err_msg=weight)
        assert sorted(seen) == sorted(whole.input_of)
    tight = LayeredHessian(expert_model, plan, max_memory=1000)
    with pytest.raises(apex.ModelError, match="raise `max_memory`"):
        tight.plan_windows(tight.all_weights())


def test_a_window_that_is_collected_ahead_is_stopped_with_the_others(
    expert_model: apex.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_collection(expert_model, some_tokens(20 * CTX), ctx=CTX, batch=4 * CTX)
    began = hold_second_window(monkeypatch)
    layered = LayeredHessian(expert_model, plan, max_memory=1_200_000, ahead=True)
    weights = layered.all_weights()
    planned = layered.plan_windows(weights)
    assert len(planned) > 2
    assert max(window.nbytes for window in planned) < layered.most_bytes(planned) <= 1_200_000
    windows = layered.windows(weights)
    next(windows)
    assert began.wait(60)
    assert calls_running() > 0
    windows.close()
    assert calls_running() == 0
    assert len(list(layered.windows(weights))) == len(planned)


def test_a_pass_starts_where_the_last_one_left_hidden_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five layers of two kinds; the last group has other chunks than those before."""
    kept: list[tuple[int, int]] = []
    real = LayeredHessian._collect

    def collect(self: LayeredHessian, window: Any, start: Any, *others: Any) -> Hessian:
        record = others[0]
        found = real(self, window, start, *others)
        kept.append((0 if start is None else start.layer, 0 if record is None else record.nbytes))
        return found

    monkeypatch.setattr(LayeredHessian, "_collect", collect)
    with apex.load_model(demo_model(), n_threads=2) as model:
        text = demo_text(3_000, seed=5)
        plan = plan_collection(model, text, ctx=64, batch=128, max_chunks=7)
        whole = LayeredHessian(model, plan, max_memory=1 << 40)
        weights = {name for name in whole.all_weights() if name.startswith("blk.")}
        ((_, expected),) = whole.windows(weights)
        layered = LayeredHessian(model, plan, max_memory=60_000_000)
        for names, found in layered.windows(weights):
            for name in names:
                mine, its = found.moment_of(name), expected.moment_of(name)
                assert mine is not None
                assert its is not None
                np.testing.assert_array_equal(mine.total, its.total, err_msg=name)
                np.testing.assert_array_equal(mine.part, its.part, err_msg=name)
        width = whole._inputs[0][1]
    assert kept.pop(0) == (0, 0)  # all at once
    assert len(kept) > 2
    assert kept[0][0] == 0
    assert kept[-1][0] > 1
    assert {nbytes for _, nbytes in kept[:-1]} <= {0, 7 * 64 * width * 4}
    assert kept[0][1] > 0


def test_files_that_are_none_are_refused(expert_model: apex.Model, tmp_path: Path) -> None:
    imatrix, path = collect(expert_model, tmp_path)
    with pytest.raises(ImatrixError, match="not a file of second moments"):
        HessianFile(imatrix.path)
    with pytest.raises(ImatrixError, match="cannot read"):
        HessianFile(tmp_path / "none.gguf")
    with pytest.raises(OutputError, match="exists"):
        collect(expert_model, tmp_path)
    data = bytearray(path.read_bytes())
    at = data.rindex(np.float32(np.nan).tobytes()) if np.float32(np.nan).tobytes() in data else -40
    data[at : at + 4] = np.float32(np.inf).tobytes()
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data)
    with pytest.raises(ImatrixError, match="damaged"):
        HessianFile(bad)


def test_the_hessian_of_a_weight_nobody_reads_is_none() -> None:
    empty = Hessian({}, {}, "", 0, {})
    assert empty.moment_of("blk.0.ffn_up.weight") is None
