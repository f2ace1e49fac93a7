"""Model files are brought into memory before they are needed, as far as there is room."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native import engine
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import Model, Placement
from apex_native.errors import Cancelled, GgufError
from apex_native.evaluation import ModelUnderTest, Text
from apex_native.evaluation import model_pool as pool_module
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.run import TextJob, score_text
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.model_pool import SPARE_BYTES, ModelPool
from apex_native.read_ahead import ReadAhead

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")


def pages_in_memory(path: Path) -> list[bool]:
    """The system's word on every page, which asking does not change."""
    size = path.stat().st_size
    states = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as view:
        first = ctypes.c_char.from_buffer(view)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), states
        )
        del first
    assert not failed
    return [bool(state & 1) for state in states]


def is_in_memory(path: Path) -> bool:
    """Nearly all of it: machines that are short of memory take pages back at any time."""
    return share_in_memory(path) > 0.9


def share_in_memory(path: Path) -> float:
    pages = pages_in_memory(path)
    return sum(pages) / len(pages)


def evict(path: Path, offset: int = 0, n_bytes: int = 0) -> None:
    """Out of memory with it, where the file system has anything below memory."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), offset, n_bytes, os.POSIX_FADV_DONTNEED)
    if is_in_memory(path):
        pytest.skip("files here lie in memory")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of one model, none of them in memory."""
    paths = [tmp_path / f"{name}.gguf" for name in ("reference", "one", "two")]
    for path in paths:
        shutil.copyfile(apex.demo_model(), path)
        evict(path)
    return paths


def test_what_is_absent_is_read(files: list[Path]) -> None:
    ahead = core.ReadAhead(str(files[0]))
    evict(files[0])  # the header was looked at
    size = files[0].stat().st_size
    assert ahead.n_bytes == size
    assert ahead.n_absent_bytes > size // 2
    ahead.run()
    assert ahead.n_absent_bytes < size // 2
    assert is_in_memory(files[0])
    evict(files[0], 8 * MIB, 16 * MIB)
    assert ahead.n_absent_bytes > 8 * MIB
    ahead.run()
    assert is_in_memory(files[0])


def test_all_shards_are_read_whichever_is_named(tmp_path: Path) -> None:
    plan = apex.make_plan(apex.demo_model(), ftype="BF16")
    apex.quantize(apex.demo_model(), plan, tmp_path / "split.gguf", split_max_size=12_000_000)
    shards = sorted(tmp_path.glob("split-*.gguf"))
    assert len(shards) > 2
    ahead = core.ReadAhead(str(shards[-1]))
    for shard in shards:
        evict(shard)
    ahead.run()
    assert all(is_in_memory(shard) for shard in shards)


def test_a_stop_is_heard(files: list[Path]) -> None:
    stop = core.StopFlag()
    stop.set()
    ahead = core.ReadAhead(str(files[0]))
    with pytest.raises(Cancelled):
        ahead.run(stop)
    assert not is_in_memory(files[0])


def test_a_file_that_ends_early_is_named(files: list[Path]) -> None:
    ahead = core.ReadAhead(str(files[0]))
    os.truncate(files[0], 8 * MIB)
    with pytest.raises(GgufError, match=r"reference\.gguf: expected .* found the end of the file"):
        ahead.run()


def test_files_are_read_in_order_while_they_fit(files: list[Path]) -> None:
    size = files[0].stat().st_size
    with ReadAhead(files, room=2 * size) as reading:
        reading.wait()
    assert [is_in_memory(path) for path in files] == [True, True, False]


def test_what_cannot_be_read_stops_nobody(files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing else")
    with ReadAhead([files[0], broken, files[1]], room=1 << 40) as reading:
        reading.wait()
    assert [is_in_memory(path) for path in files] == [True, False, False]


@pytest.mark.parametrize("free", [1 << 40, 0, None])
def test_loading_reads_the_whole_file_first(
    files: list[Path], free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is short or unknown leaves it to llama.cpp; the model is the same."""
    monkeypatch.setattr(engine, "free_memory", lambda: free)
    with (
        apex.load_model(files[0], n_threads=1) as model,
        apex.load_model(apex.demo_model(), n_threads=1) as expected,
    ):
        if free:
            assert is_in_memory(files[0])
        prompt = expected.tokenize("One two", add_special=True, parse_special=False)
        tokens = [m.generate(prompt, n_predict=4, temperature=0) for m in (model, expected)]
    assert np.array_equal(*tokens)


def test_a_load_that_is_stopped_reads_nothing(files: list[Path]) -> None:
    stop = core.StopFlag()
    stop.set()
    with pytest.raises(Cancelled):
        core.Model(str(files[0]), read_ahead_bytes=1 << 40, stop=stop)
    assert not is_in_memory(files[0])


def models_of(files: list[Path], n_threads: int) -> list[ModelUnderTest]:
    """Models under test, out of memory again: describing one reads parts of it."""
    placement = Placement(n_threads=n_threads)
    models = [ModelUnderTest(path, placement=placement) for path in files]
    for path in files:
        evict(path)
    return models


@pytest.mark.parametrize("beside_loaded", [False, True])
def test_only_what_fits_beside_the_models_is_read(
    files: list[Path], beside_loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, one, two = models_of(files, 1)
    size = files[0].stat().st_size

    def read(free: int) -> list[bool]:
        monkeypatch.setattr(pool_module, "free_memory", lambda: free)
        with ModelPool() as pool:
            if beside_loaded:
                pool.load(reference)
            pool.read_ahead([one, two], beside=[] if beside_loaded else [reference])
            if pool._reading is not None:
                pool._reading.wait()
        assert "apex-native read ahead" not in {t.name for t in threading.enumerate()}
        return [is_in_memory(path) for path in files[1:]]

    assert read(2 * size + SPARE_BYTES - 1) == [False, False]
    assert read(2 * size + SPARE_BYTES) == [True, False]
    assert read(3 * size + SPARE_BYTES) == [True, True]


class NotedPool(ModelPool):
    """Notes who is loaded and read, and lets reading end before anything else goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.was_in_memory: dict[str, bool] = {}

    def read_ahead(
        self, models: Iterable[ModelUnderTest], *, beside: Iterable[ModelUnderTest] = ()
    ) -> None:
        models = list(models)
        self.notes.append(f"read {' '.join(model.name for model in models)}")
        super().read_ahead(models, beside=beside)
        if self._reading is not None:
            self._reading.wait()

    def load(self, tested: ModelUnderTest, *, gpu_reserve: int = 0) -> Model:
        if tested.name not in self.was_in_memory:
            assert tested.source.path is not None
            self.was_in_memory[tested.name] = is_in_memory(tested.source.path)
            self.notes.append(f"load {tested.name}")
        return super().load(tested, gpu_reserve=gpu_reserve)

    def release(self, tested: ModelUnderTest) -> None:
        self.notes.append(f"free {tested.name}")
        super().release(tested)


def scored(files: list[Path], pool: ModelPool, *, two_pass: bool) -> dict[str, TokenScores]:
    reference, *candidates = models_of(files, 1)
    job = TextJob(
        reference=reference,
        candidates={model.name: model for model in candidates},
        text=Text("text", demo_text(3000, seed=3)),
        options=TextOptions(ctx=32, chunks=1, noise_chunks=0, two_pass=two_pass),
    )
    with pool:
        return dict(score_text(job, pool).tokens)


@pytest.mark.parametrize("two_pass", [True, False])
def test_the_next_file_is_read_while_a_model_computes(
    files: list[Path], two_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = NotedPool()
    found = scored(files, pool, two_pass=two_pass)
    if two_pass:
        assert pool.notes == [
            *("load reference", "read one", "free reference"),
            *("load one", "read two", "free one", "load two", "free two"),
        ]
    else:
        assert pool.notes == ["read one two", "load reference", "load one", "load two"]
    assert pool.was_in_memory == {"reference": False, "one": True, "two": True}
    monkeypatch.setattr(pool_module, "free_memory", lambda: None)
    without = scored(files, ModelPool(), two_pass=two_pass)
    for name, scores in without.items():
        for part in ("nll", "kld", "is_same_top"):
            assert np.array_equal(getattr(found[name], part), getattr(scores, part)), (name, part)
