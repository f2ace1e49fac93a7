"""An importance matrix by several copies of a model: who goes where, and the bytes of one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.imatrix import ImatrixProgress, calibrate, collect_imatrix, copies
from apex_native.imatrix.copies import copies_on_gpus, places_of
from apex_native.imatrix.group_turns import GroupTurns
from apex_native.imatrix.several_models import WAITING, SeveralModels
from calibration_models import (
    N_VOCAB,
    derived_demo,
    expert_weights,
    write_expert_model,
    write_recurrent_model,
)

GIB = 1 << 30
CTX = 32
ON_CPU = Placement(n_threads=1)
ALL = Placement(n_gpu_layers=-1, n_threads=16)

Tokens = npt.NDArray[np.int32]


def some_tokens(n: int) -> Tokens:
    return np.random.default_rng(3).integers(3, N_VOCAB, n).astype(np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apex.Model]:
    path = write_expert_model(tmp_path_factory.mktemp("models") / "experts.gguf")
    with apex.load_model(path, n_threads=1) as loaded:
        yield loaded


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Copies wait until each has a group: there must be as many. Gives the groups of each."""
    take, close = GroupTurns.take, SeveralModels.close
    arrived: dict[GroupTurns, set[int]] = {}
    shares: list[list[int]] = []

    def wait_for_all(turns: GroupTurns) -> int | None:
        group = take(turns)
        here = arrived.setdefault(turns, set())
        here.add(threading.get_ident())
        deadline = time.monotonic() + 60
        while len(here) < turns._ahead - WAITING and not turns._ended:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return group

    def note_shares(sums: SeveralModels) -> None:
        shares.append(sums.groups_each)
        close(sums)

    monkeypatch.setattr(GroupTurns, "take", wait_for_all)
    monkeypatch.setattr(SeveralModels, "close", note_shares)
    return shares


# --- who goes where -------------------------------------------------------------------------------


def test_each_gpu_with_room_gets_a_copy() -> None:
    def devices(gib: int, *free: int, placement: Placement = ALL) -> list[tuple[str, ...]]:
        places = copies_on_gpus(placement, gib * GIB, [n * GIB for n in free])
        return [place.devices for place in places]

    assert devices(65, 80, 80) == [("CUDA0",), ("CUDA1",)]
    assert devices(65, 80, 20, 80, 67) == [("CUDA0",), ("CUDA2",)]
    assert devices(78, 80, 80) == [()]  # spread over both, as llama.cpp does it
    assert devices(65, 80) == [()]
    assert devices(1) == [()]
    places = copies_on_gpus(ALL, GIB, [80 * GIB] * 4)
    assert {place.n_threads for place in places} == {4}
    assert {place.n_gpu_layers for place in places} == {-1}


def test_a_limit_is_of_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "free_gpu_bytes", lambda: [80 * GIB, 80 * GIB])
    assert len(places_of(ALL, apex.demo_model())) == 2
    assert places_of(ALL, apex.demo_model(), GIB) == (replace(ALL, gpu_memory=GIB),)
    assert places_of(None, apex.demo_model()) == (Placement(),)


@pytest.mark.parametrize(
    ("placement", "is_open"),
    [
        (Placement(n_gpu_layers=-1), True),
        (Placement(n_gpu_layers="auto", n_threads=3), True),
        (Placement(), False),
        (Placement(n_gpu_layers=7), False),
        (Placement(n_gpu_layers=-1, devices=("CUDA1",)), False),
        (Placement(n_gpu_layers=-1, main_gpu=1), False),
        (Placement(n_gpu_layers=-1, split_mode="row"), False),
        (Placement(n_gpu_layers=-1, tensor_split=(1.0, 2.0)), False),
    ],
)
def test_what_was_said_about_gpus_stays(placement: Placement, is_open: bool) -> None:
    assert placement.is_left_open == is_open


# --- the same bytes -------------------------------------------------------------------------------


def test_the_number_of_copies_changes_no_byte(
    tmp_path: Path, model: apex.Model, together: list[list[int]]
) -> None:
    tokens = some_tokens(41 * CTX + 5)
    files = set()
    for n in range(3):
        path = tmp_path / f"{n}.gguf"
        seen: list[ImatrixProgress] = []
        collect_imatrix(
            model, tokens, ctx=CTX, batch=2 * CTX, ubatch=CTX, beside=[ON_CPU] * n, output=path,
            checkpoint_every=3, progress=seen.append,
        )  # fmt: skip
        files.add(path.read_bytes())
        assert seen[-1].chunks_done == seen[-1].n_chunks == 41
        done = [state.chunks_done for state in seen]
        assert done == sorted(done)
    assert len(files) == 1
    assert [len(share) for share in together] == [2, 3]
    assert [sum(share) for share in together] == [21, 21]
    assert all(min(share) > 0 for share in together)


@pytest.mark.parametrize("kind", ["MTP block", "recurrent"])
def test_other_models_too(tmp_path: Path, together: list[list[int]], kind: str) -> None:
    if kind == "recurrent":
        path = write_recurrent_model(tmp_path / "model.gguf")
        tokens = some_tokens(8 * CTX)
    else:
        path = derived_demo(apex.demo_model(), tmp_path / "model.gguf", mtp=True)
    with apex.load_model(path, n_threads=1, load_mtp=True) as loaded:
        if kind == "MTP block":
            tokens = loaded.tokenize(demo_text(3000, seed=2), add_special=True, parse_special=False)
            tokens = tokens[: 9 * CTX]
        found = [
            collect_imatrix(loaded, tokens, ctx=CTX, batch=2 * CTX, beside=[ON_CPU] * n)
            for n in (0, 1)
        ]
    assert found[0].sha256 == found[1].sha256
    assert ("blk.8.nextn.eh_proj.weight" in found[0].entries) == (kind == "MTP block")
    assert all(min(share) > 0 for share in together)


def test_second_moments_stay_with_one_model(
    tmp_path: Path, model: apex.Model, together: list[list[int]]
) -> None:
    tokens = some_tokens(9 * CTX)
    files = []
    for n in range(3):
        paths = tmp_path / f"{n}.gguf", tmp_path / f"{n}-hessian.gguf"
        collect_imatrix(
            model, tokens, ctx=CTX, batch=2 * CTX, beside=[ON_CPU] * n, output=paths[0],
            hessian=paths[1],
        )  # fmt: skip
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1] == files[2]
    assert together == []


def test_it_ends_with_the_same_chunk(model: apex.Model, together: list[list[int]]) -> None:
    """min_expert_tokens: what copies computed beyond it does not count."""
    tokens = some_tokens(60 * CTX)
    found = [
        collect_imatrix(
            model, tokens, ctx=CTX, batch=CTX, min_expert_tokens=150, beside=[ON_CPU] * n
        )
        for n in range(3)
    ]
    assert {matrix.sha256 for matrix in found} == {found[0].sha256}
    assert 1 < found[0].chunk_count < 60
    assert len(together) == 2


def test_calibrate_takes_several_places(tmp_path: Path, together: list[list[int]]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(demo_text(6000, seed=4))
    found = []
    for n in (1, 2):
        output = tmp_path / f"{n}.gguf"
        calibrate(
            apex.demo_model(), text, ctx=CTX, batch=2 * CTX, max_chunks=12, all_experts=True,
            placement=[ON_CPU] * n, output=output,
        )  # fmt: skip
        found.append(output.read_bytes())
    assert found[0] == found[1]
    assert [sum(share) for share in together] == [6, 6]  # both passes
    with pytest.raises(ValueError, match="at least one place"):
        calibrate(apex.demo_model(), text, placement=[])


# --- stops ----------------------------------------------------------------------------------------


RUN = """
import os, signal, sys
import apex_native as apex
from apex_native.engine import Placement
from apex_native.imatrix import calibrate, collection
model, text, output, n, resume, dies = sys.argv[1:]
write = collection.write_checkpoint

def write_and_die(*args):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)

if dies:
    collection.write_checkpoint = write_and_die
calibrate(model, text, ctx=32, batch=64, max_chunks=80, checkpoint_every=2, output=output,
          placement=[Placement(n_threads=1)] * int(n), resume=bool(resume))
"""


def run(text: Path, output: Path, n_copies: int, *, resume: str = "", dies: str = "") -> int:
    command = [sys.executable, "-c", RUN, apex.demo_model(), text, output, str(n_copies)]
    return subprocess.run([*command, resume, dies], check=False, timeout=120).returncode


@pytest.mark.slow
def test_another_number_of_copies_goes_on_after_a_kill(tmp_path: Path) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "m.gguf"
    text.write_text(demo_text(20_000, seed=8))
    assert run(text, tmp_path / "whole.gguf", 1) == 0
    checkpoint = tmp_path / "m.gguf.checkpoint"
    resume, before = "", b""
    for n_copies in (3, 1, 2):
        assert run(text, output, n_copies, resume=resume, dies="dies") == -signal.SIGKILL
        assert checkpoint.read_bytes() != before
        resume, before = "resume", checkpoint.read_bytes()
    assert not output.exists()
    assert run(text, output, 2, resume=resume) == 0
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize("when", ["while they compute", "while they load"])
def test_ctrl_c_ends_all_of_them(
    tmp_path: Path, model: apex.Model, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    loading = threading.Event()
    if when == "while they load":

        def load(_: Placement, *__: object, **___: object) -> apex.Model:
            from apex_native.interrupt import check_cancelled

            loading.set()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                check_cancelled()
                time.sleep(0.01)
            raise AssertionError("nobody stopped it")

        monkeypatch.setattr(Placement, "load", load)
    else:
        loading.set()

    def stop(progress: ImatrixProgress) -> None:
        if progress.chunks_done >= 4:
            assert loading.wait(60)
            raise KeyboardInterrupt

    path = tmp_path / "m.gguf"
    with pytest.raises(KeyboardInterrupt) as stopped:
        collect_imatrix(
            model, some_tokens(200 * CTX), ctx=CTX, batch=2 * CTX, output=path, progress=stop,
            checkpoint_every=2, beside=[ON_CPU, ON_CPU],
        )  # fmt: skip
    assert "of 200 chunks are done; go on with `resume=True`" in stopped.value.__notes__[0]
    names = [thread.name for thread in threading.enumerate()]
    assert "apex-native imatrix" not in names


def test_a_short_text_does_not_wait_for_copies(
    model: apex.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Placement, *__: object, **___: object) -> apex.Model:
        from apex_native.interrupt import check_cancelled

        for _second in range(60_000):
            check_cancelled()
            time.sleep(0.001)
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(Placement, "load", load)
    begin = time.monotonic()
    matrix = collect_imatrix(model, some_tokens(8 * CTX), ctx=CTX, batch=CTX, beside=[ON_CPU])
    assert time.monotonic() - begin < 30
    assert matrix.chunk_count == 8


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_bad_weight_is_named_as_by_one_model(tmp_path: Path, together: list[list[int]]) -> None:
    weights = expert_weights()
    weights["blk.0.ffn_norm.weight"][3] = np.inf
    path = write_expert_model(tmp_path / "broken.gguf", weights)
    said = []
    with apex.load_model(path, n_threads=1) as broken:
        for n in range(3):
            with pytest.raises(apex.ModelError) as caught:
                collect_imatrix(
                    broken, some_tokens(8 * CTX), ctx=CTX, batch=CTX, beside=[ON_CPU] * n
                )
            said.append(str(caught.value))
    assert "blk.0.ffn_gate_inp.weight: its input is" in said[0]
    assert len(set(said)) == 1
    assert len(together) == 2


def test_a_copy_that_cannot_be_loaded_is_said(model: apex.Model, together: list[list[int]]) -> None:
    nowhere = Placement(devices=("CUDA99",))
    with pytest.raises(apex.ApexError, match="CUDA99"):
        collect_imatrix(model, some_tokens(8 * CTX), ctx=CTX, batch=CTX, beside=[nowhere])
    assert together == [[0]]  # the first waited for it


def test_copies_on_other_kinds_of_devices_are_refused(model: apex.Model) -> None:
    with pytest.raises(ValueError, match="one copy of the model is on the CPU, another on a GPU"):
        collect_imatrix(model, some_tokens(8 * CTX), ctx=CTX, beside=[Placement(n_gpu_layers=-1)])


def test_second_moments_are_not_recorded(model: apex.Model) -> None:
    run: Any = core.ImatrixRun(
        model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX, n_threads=1, scope="everything",
        moments=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="second moments are added up where they are computed"):
        run.record_chunks(some_tokens(CTX), core.GroupRecord())


# --- turns ----------------------------------------------------------------------------------------


def test_nobody_runs_far_ahead() -> None:
    turns = GroupTurns(first=2, n_groups=9, ahead=3)
    assert [turns.take() for _ in range(3)] == [2, 3, 4]
    found: list[int | None] = []
    waiting = threading.Thread(target=lambda: found.append(turns.take()))
    waiting.start()
    turns.put(3, "three")
    assert turns.get(2, timeout=0.05) is None
    assert found == []
    turns.put(2, "two")
    assert turns.get(2, timeout=10) == "two"
    turns.done(2, "two")
    waiting.join(10)
    assert found == [5]
    assert turns.spent() == "two"
    assert turns.spent() is None
    assert turns.any_left
    turns.end()
    assert turns.take() is None
    assert not turns.any_left


def test_an_error_comes_up_in_its_turn() -> None:
    turns = GroupTurns(first=0, n_groups=4, ahead=4)
    turns.put(1, apex.ModelError("second"))
    turns.put(0, "first")
    assert turns.get(0, timeout=10) == "first"
    with pytest.raises(apex.ModelError, match="second"):
        turns.get(1, timeout=10)
    turns.fail(apex.DeviceError("all of them"))
    with pytest.raises(apex.DeviceError, match="all of them"):
        turns.get(2, timeout=10)
