"""Sweeps in one process: equal to evaluations, known jobs are free, nothing gets lost."""

from __future__ import annotations

import copy
import csv
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_native as apex
import tolerances
from apex_native.allocation import ProbeStore
from apex_native.engine import Placement
from apex_native.errors import ApexError, Cancelled, OutputError, PlanError
from apex_native.evaluation import ModelUnderTest, PlannedModel
from apex_native.evaluation.tasks import TaskKind, TaskSpec
from apex_native.imatrix import load_imatrix
from apex_native.sweeps import SweepOutcome, SweepProgress
from apex_native.types import GgmlType
from sweep_tools import as_toml, comparable, write_inputs
from task_files import WRITERS

ONE = Placement(n_threads=1)
KINDS = ("attention", "down", "gate_up")
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def definition(inputs: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(inputs)


@pytest.fixture(scope="module")
def swept(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    folder = tmp_path_factory.mktemp("swept") / "out"
    return apex.sweep(inputs, folder, placement=ONE, report=False)


# --- results ------------------------------------------------------------------------------------


def test_blocks_give_the_results_of_a_whole_evaluation(
    definition: dict[str, Any], swept: SweepOutcome
) -> None:
    reference = definition["reference"]
    with apex.open_gguf(reference) as source:
        models = [
            PlannedModel(reference, apex.make_plan(source, ftype=ftype), name=ftype)
            for ftype in ("Q8_0", "Q4_0")
        ]
    whole = apex.evaluate(
        reference,
        [ModelUnderTest(model, label=model.name) for model in models],
        definition["texts"][0]["file"],
        ctx=256,
        chunks=6,
        noise_chunks=2,
        n_ubatch=512,
        two_pass=True,
        n_threads=1,
    ).results
    assert comparable(swept.results["text.txt"]) == comparable(whole)
    assert whole.candidates[1].kld_mean is not None
    assert whole.candidates[1].kld_mean > 0


def test_a_matrix_of_blocks_is_the_matrix_of_the_text(
    definition: dict[str, Any], tmp_path: Path
) -> None:
    text = str(Path(definition["reference"]).with_name("calibration.txt"))
    definition["matrices"] = {
        "m": {"text": text, "ctx": 256, "batch": 512, "chunks": 5, "block": 2}
    }
    definition["candidates"] = [
        {"ftype": "Q4_0", "matrix": ["none", "m"], "prior": ["auto", "none"]}
    ]
    found = apex.sweep(definition, tmp_path / "out", placement=ONE, report=False)
    names = [row.name for row in found.results["text.txt"].candidates]
    assert names == ["Q4_0 no matrix", "Q4_0 m prior auto", "Q4_0 m prior none"]
    assert len({row.kld_mean for row in found.results["text.txt"].candidates}) == 3

    ours = load_imatrix(tmp_path / "out" / "matrices" / "m.imatrix.gguf")
    whole = apex.calibrate(
        definition["reference"], text, ctx=256, batch=512, max_chunks=5, placement=ONE
    )
    assert {**ours.settings} == {**whole.settings}
    assert (ours.chunk_count, ours.datasets) == (whole.chunk_count, whole.datasets)
    assert list(ours.entries) == list(whole.entries)
    for name, entry in whole.entries.items():
        assert (ours.entries[name].counts == entry.counts).all()
        np.testing.assert_allclose(
            ours.entries[name].sums, entry.sums, rtol=tolerances.SUMS_OF_BLOCKS
        )
    again = apex.sweep(definition, tmp_path / "out", placement=ONE, report=False, resume=True)
    assert (again.n_done, again.n_known) == (0, found.n_done)


def test_tasks_are_those_of_an_evaluation(definition: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "hellaswag.txt"
    path.write_bytes(WRITERS[TaskKind.HELLASWAG](8))
    definition["tasks"] = [{"kind": "hellaswag", "file": str(path), "n_tasks": 5}]
    del definition["texts"]
    found = apex.sweep(definition, tmp_path / "out", placement=ONE, report=False).results[""]
    reference = definition["reference"]
    with apex.open_gguf(reference) as source:
        plan = apex.make_plan(source, ftype="Q4_0")
    whole = apex.evaluate(
        reference,
        [PlannedModel(reference, plan, name="Q4_0")],
        tasks=[TaskSpec(TaskKind.HELLASWAG, str(path), "hellaswag")],
        n_tasks=5,
        n_threads=1,
    ).results
    assert found.reference is not None
    assert whole.reference is not None
    ours = {row.name: row.tasks[0] for row in (found.reference, *found.candidates)}
    for row in (whole.reference, *whole.candidates):
        assert replace(ours[row.name], comparisons=()) == replace(row.tasks[0], comparisons=())


def test_report_and_results_are_written(definition: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    definition["candidates"] = [{"ftype": "Q4_0", "cache": ["f16", "f32/bf16"]}]
    path.write_text(as_toml(definition))
    snapshots: list[SweepProgress] = []
    found = apex.sweep(path, tmp_path / "out", placement=ONE, progress=snapshots.append)
    assert {"results.json", "report.md", "report.csv"} <= {file.name for file in found.files}
    assert [(row.name, row.type_k, row.type_v) for row in found.results["text.txt"].candidates] == [
        ("Q4_0", None, None),
        ("Q4_0 (cache f32/bf16)", "f32", "bf16"),
    ]
    assert snapshots[-1].share == 1
    assert [row.kld for row in snapshots[-1].best] == pytest.approx(
        sorted(row.kld_mean for row in found.results["text.txt"].candidates)
    )


def test_probes_are_what_a_search_measures(definition: dict[str, Any], tmp_path: Path) -> None:
    del definition["candidates"]
    definition["probes"] = [{"types": ["Q8_0", "Q4_0"]}]
    found = apex.sweep(definition, tmp_path / "out", placement=ONE)
    rows = list(csv.DictReader((tmp_path / "out" / "probes.csv").read_text().splitlines()))
    units = ["embedding", *(f"{i}.{kind}" for i in (0, 1) for kind in KINDS), "output"]
    assert [row["unit"] for row in rows] == [unit for unit in units for _ in range(2)]
    assert found.n_done == 3 * len(rows)
    assert (found.failures, found.results) == ((), {})

    reference = definition["reference"]
    with apex.open_gguf(reference) as source:
        changed = {"blk.1.ffn_down_exps.weight": GgmlType.Q4_0}
        plan = apex.make_plan(source, types=changed, reason="one unit")
    whole = apex.evaluate(
        reference,
        [PlannedModel(reference, plan)],
        definition["texts"][0]["file"],
        ctx=256,
        chunks=6,
        noise_chunks=0,
        n_threads=1,
    ).results.candidates[0]
    (own,) = [row for row in rows if (row["unit"], row["type"]) == ("1.down", "Q4_0")]
    assert whole.kld_mean is not None
    assert float(own["kld"]) == pytest.approx(whole.kld_mean, abs=tolerances.TWO_PASS_KLD_ATOL)
    with ProbeStore(tmp_path / "out") as store:
        assert len(store) == 6 * len(rows)


# --- known jobs ---------------------------------------------------------------------------------


def test_what_is_known_is_free(definition: dict[str, Any], tmp_path: Path) -> None:
    definition["candidates"] = [{"ftype": "Q8_0"}]
    store = tmp_path / "shared.sqlite"
    first = apex.sweep(definition, tmp_path / "a", store=store, placement=ONE, report=False)
    definition["candidates"] = [{"ftype": ["Q8_0", "Q4_0"], "name": "renamed"}]
    more = apex.sweep(definition, tmp_path / "b", store=store, placement=ONE, report=False)
    assert (first.n_known, first.n_done) == (0, 4)
    assert (more.n_known, more.n_done) == (4, 3)
    known, again = first.results["text.txt"].candidates[0], more.results["text.txt"].candidates[0]
    assert replace(again, name=known.name) == known


def test_a_sweep_is_not_overwritten(definition: dict[str, Any], tmp_path: Path) -> None:
    definition["candidates"] = [{"ftype": "Q8_0"}]
    run = {"placement": ONE, "report": False}
    first = apex.sweep(definition, tmp_path, **run)
    with pytest.raises(OutputError, match="resume=True"):
        apex.sweep(definition, tmp_path, **run)
    assert apex.sweep(definition, tmp_path, resume=True, **run).n_done == 0
    assert apex.sweep(definition, tmp_path, force=True, **run).n_done == first.n_done


# --- stops and failures -------------------------------------------------------------------------


def test_a_cancelled_sweep_goes_on(
    definition: dict[str, Any], swept: SweepOutcome, tmp_path: Path
) -> None:
    stop = threading.Event()

    def watch(progress: SweepProgress) -> None:
        if progress.n_done >= 2:
            stop.set()

    run: dict[str, Any] = {"placement": ONE, "report": False}
    with pytest.raises(Cancelled) as stopped:
        apex.sweep(definition, tmp_path, progress=watch, cancel=stop, **run)
    assert "resume=True" in stopped.value.__notes__[0]
    found = apex.sweep(definition, tmp_path, resume=True, **run)
    assert (found.n_known, found.n_done) == (2, 5)
    assert comparable(found.results["text.txt"]) == comparable(swept.results["text.txt"])


KILLED = """
import os, signal, sys
import apex_native as apex
from apex_native.engine import Placement
from apex_native.sweeps.worker import Worker

run = Worker.run

def killed(self, job):
    if "Q4_0" in job.label and "block 1" in job.label:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, job)

Worker.run = killed
found = apex.sweep(sys.argv[1], sys.argv[2], resume=True, report=False,
                   placement=Placement(n_threads=1))
for failure in found.failures:
    print(failure.label, "|", failure.reason, "|", [*found.results["text.txt"].candidates][0].name)
"""


def test_a_job_that_ends_the_process_twice_is_reported(
    definition: dict[str, Any], swept: SweepOutcome, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(as_toml(definition))

    def again() -> subprocess.CompletedProcess[str]:
        code = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "out")]
        return subprocess.run(code, capture_output=True, text=True, check=False, timeout=120)

    for _ in range(2):
        assert again().returncode == -signal.SIGKILL
    third = again()
    assert third.returncode == 0, third.stderr
    assert third.stdout == (
        "Q4_0 on block 1 of text.txt | the process ended 2 times during this job | Q8_0\n"
    )
    found = apex.sweep(path, tmp_path / "out", resume=True, placement=ONE, report=False)
    assert (found.n_known, found.n_done, found.failures) == (6, 1, ())
    assert comparable(found.results["text.txt"]) == comparable(swept.results["text.txt"])


def test_a_candidate_that_cannot_be_computed_is_reported(
    definition: dict[str, Any], tmp_path: Path
) -> None:
    definition["candidates"] = [
        {"ftype": "Q8_0", "cache": ["f16", "q8_0"]},  # a head of 16 is no block of 32
        {"tier": "i-quality"},
    ]
    found = apex.sweep(definition, tmp_path / "out", placement=ONE, report=False)
    assert [row.name for row in found.results["text.txt"].candidates] == ["Q8_0"]
    assert {failure.candidate for failure in found.failures} == {"Q8_0 (cache q8_0/q8_0)"}
    assert "q8_0" in found.failures[0].reason.lower()
    assert "needs an importance matrix" in found.skipped["i-quality"]
    definition["candidates"] = [{"tier": "i-quality"}]
    with pytest.raises(PlanError, match="no candidate can be made; i-quality"):
        apex.sweep(definition, tmp_path / "none", placement=ONE, report=False)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Path(definition["reference"]).read_bytes()[:-4096])
    definition["candidates"] = [{"file": str(cut)}]
    with pytest.raises(ApexError, match="download the whole file"):
        apex.sweep(definition, tmp_path / "cut", placement=ONE, report=False)


def test_without_ray_there_is_a_sentence(definition: dict[str, Any], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import apex_native as apex\n"
        "apex.sweep(sys.argv[1], sys.argv[2], ray=True)"
    )
    path = tmp_path / "sweep.toml"
    path.write_text(as_toml(definition))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "pip install 'apex-native[sweep]'" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []  # nothing that the next run would stop at
