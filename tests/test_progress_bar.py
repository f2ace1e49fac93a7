"""The ready progress bar: in a terminal, in a notebook, in a log, for every kind of work."""

from __future__ import annotations

import io
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native import progress_bar
from cli_tools import write_experts


@dataclass(frozen=True)
class Step:
    share: float
    state: str = "3/12 tensors"
    eta_s: float | None = 62.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only where a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress_bar, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_terminal_has_one_line_that_redraws_itself(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    bar = apex.ProgressBar("quantizing", file=out)
    for share in (0.25, 0.26, 0.5, 1.0):
        bar(Step(share))
        clock[0] += 0.06
    lines = out.getvalue().split("\r")
    assert [line.strip() for line in lines] == [
        "",
        "quantizing ██████░░░░░░░░░░░░░░░░░░  25% 3/12 tensors, 1:02 left",
        "quantizing ████████████░░░░░░░░░░░░  50% 3/12 tensors, 1:02 left",
        "quantizing ████████████████████████ 100% 3/12 tensors",
    ]
    assert out.getvalue().endswith("\n")
    assert len(lines[-1].rstrip("\n")) == len(lines[-2])  # nothing of the longer line is left


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_no_line_is_wider_than_the_terminal(
    columns: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    apex.ProgressBar("a label", file=out)(Step(0.3, state="of many words " * 20))
    assert len(out.getvalue().strip("\r")) < columns


def test_a_log_has_a_line_now_and_then(clock: list[float]) -> None:
    out = io.StringIO()
    bar = apex.ProgressBar("calibrating", file=out)
    for second in range(12):
        bar(Step(second / 12))
        clock[0] += 1
    bar(Step(1.0))
    bar(Step(1.0))  # as some work says at its very end
    assert out.getvalue().splitlines() == [
        "calibrating: 42% 3/12 tensors, 1:02 left",
        "calibrating: 83% 3/12 tensors, 1:02 left",
        "calibrating: 100% 3/12 tensors",
    ]


def test_an_exception_leaves_the_cursor_on_a_line_of_its_own(clock: list[float]) -> None:
    out = Terminal()

    def work() -> None:
        with apex.ProgressBar(file=out) as bar:
            bar(Step(0.3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert out.getvalue().endswith("\n")


def test_a_notebook_has_one_element_that_changes(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By IPython's own display protocol: shown once, updated afterwards."""
    shown: list[tuple[str, str]] = []

    class Handle:
        def update(self, body: str) -> None:
            shown.append(("update", body))

    def display(body: str, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(("display", body))
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    module: Any = types.ModuleType("IPython.display")
    module.HTML, module.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    bar = apex.ProgressBar("a < b")
    for share in (0.25, 1.0):
        bar(Step(share))
    assert [kind for kind, _ in shown] == ["display", "update"]
    assert "a &lt; b <progress value='0.2500' max='1'></progress>  25%" in shown[0][1]
    assert "value='1.0000'" in shown[1][1]


def test_work_shows_itself(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "tiny-bf16.gguf", n_layers=2, rows=64)
    out = io.StringIO()
    plan = apex.make_plan(model, ftype="Q8_0")
    apex.quantize(model, plan, tmp_path / "q.gguf", progress=apex.ProgressBar("q", file=out))
    assert out.getvalue().splitlines()[-1].startswith("q: 100% ")
    assert "tensors" in out.getvalue()


def test_every_snapshot_can_be_shown() -> None:
    from apex_native.corpus.protocols import CorpusProgress
    from apex_native.evaluation.progress import EvaluateProgress
    from apex_native.evaluation.speed.kernels import KernelProgress
    from apex_native.evaluation.speed.models import ModelSpeedProgress
    from apex_native.evaluation.speed.tokens import SpeedProgress
    from apex_native.imatrix import ImatrixProgress

    test = SpeedProgress("pp512", 1, 2, 1.0)
    snapshots = (
        apex.Progress(1, 4, 25, 100, 0, 1.0),
        CorpusProgress(25, 100, "chat", 1.0),
        EvaluateProgress("text", 0.25, "chunk 1", 1.0),
        KernelProgress("Q4_K", 1, 4, 1.0),
        ModelSpeedProgress("a.gguf", 1, 4, test, 0.25, 1.0),
        ImatrixProgress(1, 4, 0, 512, 1.0),
    )
    for snapshot in snapshots:
        out = Terminal()
        apex.ProgressBar(file=out)(snapshot)
        assert " 25% " in out.getvalue(), snapshot
        assert "0:03 left" in out.getvalue(), snapshot
