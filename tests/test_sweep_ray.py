"""Sweeps on a real Ray cluster of two nodes on this machine: equal results, whatever dies."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native.engine import Placement
from apex_native.errors import DataError
from apex_native.results import Results
from apex_native.sweeps import SweepOutcome, SweepProgress
from cli_tools import run
from stopped_runs import RESULT_STORED, run_stopped
from sweep_tools import FOLDER_VARIABLE, as_toml, comparable, install_events, write_inputs

ray: Any = pytest.importorskip("ray", reason="Ray has no wheel for this Python")

pytestmark = [
    pytest.mark.slow,
    # Of processes and sockets that Ray closes when the interpreter ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ONE = Placement(n_threads=1)
TEXT = "text.txt"


class Nodes:
    """Two nodes of a processor each; the second can be lost and replaced."""

    def __init__(self, events: Path) -> None:
        from ray.cluster_utils import Cluster

        self.events = events
        node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, connect=False, head_node_args=node)
        self.second: Any = None
        self.replace()

    def replace(self) -> None:
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        self.cluster.wait_for_nodes()

    def lose(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    events = tmp_path_factory.mktemp("events")
    before = dict(os.environ)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_TOKEN": "of-this-test",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    nodes = Nodes(events)
    ray.init(
        address=nodes.cluster.address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": install_events,
            "env_vars": {FOLDER_VARIABLE: str(events)},
        },
    )
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def two_nodes(nodes: Nodes) -> Nodes:
    for event in nodes.events.iterdir():
        event.unlink()
    if nodes.second is None:
        nodes.replace()
    return nodes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def embedded(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    folder = tmp_path_factory.mktemp("embedded") / "out"
    return apex.sweep(inputs, folder, placement=ONE, report=False)


def on_cluster(definition: dict[str, Any], folder: Path, **more: Any) -> SweepOutcome:
    return apex.sweep(
        definition, folder, address="auto", workers=2, placement=ONE, report=False, **more
    )


def test_a_lost_node_changes_nothing(
    two_nodes: Nodes, inputs: dict[str, Any], embedded: SweepOutcome, tmp_path: Path
) -> None:
    n_workers = []

    def lose_one(progress: SweepProgress) -> None:
        n_workers.append(progress.n_workers)
        if progress.n_done == 2 and two_nodes.second is not None:
            two_nodes.lose()

    definition = copy.deepcopy(inputs)
    text = str(Path(inputs["reference"]).with_name("calibration.txt"))
    definition["matrices"] = {
        "m": {"text": text, "ctx": 256, "batch": 512, "chunks": 4, "block": 2}
    }
    definition["candidates"].append({"ftype": "Q5_0", "matrix": "m"})
    found = on_cluster(definition, tmp_path / "ray", progress=lose_one)
    assert max(n_workers) == 2
    assert two_nodes.second is None
    assert found.failures == ()
    whole = apex.sweep(definition, tmp_path / "embedded", placement=ONE, report=False)
    assert comparable(found.results[TEXT]) == comparable(whole.results[TEXT])
    matrix = Path("matrices", "m.imatrix.gguf")
    ours, theirs = tmp_path / "ray" / matrix, tmp_path / "embedded" / matrix
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_job_that_aborts_its_worker_is_reported(
    two_nodes: Nodes, inputs: dict[str, Any], embedded: SweepOutcome, tmp_path: Path
) -> None:
    (two_nodes.events / "abort").write_text("Q4_0 on block 1")
    found = on_cluster(inputs, tmp_path)
    label = f"Q4_0 on block 1 of {TEXT}"
    assert [failure.label for failure in found.failures] == [label]
    assert "died 2 times" in found.failures[0].reason
    assert (two_nodes.events / "aborted").read_text().splitlines() == [label, label]
    assert [row.name for row in found.results[TEXT].candidates] == ["Q8_0"]

    (two_nodes.events / "abort").unlink()
    whole = on_cluster(inputs, tmp_path, resume=True)
    assert (whole.n_known, whole.n_done) == (6, 1)
    assert comparable(whole.results[TEXT]) == comparable(embedded.results[TEXT])


def test_a_machine_without_room_gets_no_more_jobs(
    two_nodes: Nodes, inputs: dict[str, Any], embedded: SweepOutcome, tmp_path: Path
) -> None:
    (two_nodes.events / "full-disk").touch()
    n_workers = []
    found = on_cluster(inputs, tmp_path, progress=lambda p: n_workers.append(p.n_workers))
    assert (two_nodes.events / "full-disk.taken").exists()
    assert (max(n_workers), n_workers[-1]) == (2, 1)
    assert found.failures == ()
    assert comparable(found.results[TEXT]) == comparable(embedded.results[TEXT])


def test_another_version_is_refused(
    two_nodes: Nodes, inputs: dict[str, Any], tmp_path: Path
) -> None:
    (two_nodes.events / "other-version").touch()
    with pytest.raises(DataError, match=r"node-b cannot take part: version is 0\.0\.1 there"):
        on_cluster(inputs, tmp_path)


def test_ctrl_c_and_resume_with_workers_of_this_machine(
    inputs: dict[str, Any], embedded: SweepOutcome, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    # Enough candidates that some are left after the first result.
    more = [{"ftype": ["Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1", "IQ4_NL", "F16"]}]
    path.write_text(as_toml({**inputs, "candidates": more}))
    home = {"HOME": str(tmp_path)}
    command = ("sweep", path, "--no-report")
    stopped = run_stopped(
        RESULT_STORED, *command, "--ray", "--workers", "2", "--threads", "1", **home
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "--resume" in stopped.stderr
    assert not (tmp_path / ".ray").exists()
    done = run(*command, "--resume", "--json", "--threads", "1", **home)
    assert done.returncode == 0, done.stderr
    found = Results.load(tmp_path / "sweep" / "results.json")
    expected = comparable(embedded.results[TEXT])["candidates"]
    assert [row for row in comparable(found)["candidates"] if row in expected] == expected
