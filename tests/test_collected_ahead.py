"""Quantizing under second moments of which the next are collected meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.demo import demo_model
from apex_native.demo_text import demo_text
from apex_native.imatrix import LayeredHessian, plan_collection
from apex_native.quantization import Progress, quantize_model
from held_windows import calls_running, hold_second_window

MAX_MEMORY = 60 << 20


def quantized(
    path: Path, *, ahead: bool, progress: Callable[[Progress], None] | None = None
) -> Path:
    """The demo model in Q3_K, moments of 1,024 tokens in several windows."""
    with (
        apex.open_gguf(demo_model()) as source,
        apex.load_model(demo_model(), n_threads=2) as model,
    ):
        collection = plan_collection(model, demo_text(8_000, seed=5), max_chunks=2)
        hessian = LayeredHessian(model, collection, max_memory=MAX_MEMORY, ahead=ahead)
        assert len(hessian.plan_windows(hessian.all_weights())) > (2 if ahead else 1)
        plan = apex.make_plan(source, ftype="Q3_K_S")
        quantize_model(source, plan, path, hessian=hessian, n_threads=2, progress=progress)
    return path


@pytest.mark.slow
def test_the_bytes_are_the_same(tmp_path: Path) -> None:
    one = quantized(tmp_path / "in-turn.gguf", ahead=False)
    other = quantized(tmp_path / "ahead.gguf", ahead=True)
    assert one.read_bytes() == other.read_bytes()


def test_a_stop_ends_the_collection_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = hold_second_window(monkeypatch)
    collecting: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.finished:
            assert began.wait(60)
            collecting.append(calls_running())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(tmp_path / "out.gguf", ahead=True, progress=stop)
    assert collecting[0] > 0
    assert calls_running() == 0
