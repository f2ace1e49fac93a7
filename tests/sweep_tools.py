"""Small sweeps for tests, and what happens to workers: installed in their processes by Ray."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.results import Results
from apex_native.sweeps import ray_worker
from apex_native.sweeps.jobs import Job
from apex_native.sweeps.worker import Outcome, Worker, WorkerFacts
from tiny_models import write_tiny_model

FOLDER_VARIABLE = "APEX_TEST_EVENTS"
"""A folder that says what is to happen: files named after an event."""

FILE_LIMIT = 200_000
"""Bytes: less than any candidate, more than Ray's logs of a minute."""


def write_inputs(folder: Path) -> dict[str, Any]:
    """A model, texts, and a sweep as a TOML file would have it: 2 candidates, 3 blocks."""
    write_tiny_model(folder / "model.gguf", "qwen3moe")
    (folder / "text.txt").write_text(demo_text(6_000, seed=11))
    (folder / "calibration.txt").write_text(demo_text(6_000, seed=12))
    return {
        "reference": str(folder / "model.gguf"),
        "texts": [
            {
                "file": str(folder / "text.txt"),
                "ctx": 256,
                "chunks": 6,
                "block": 2,
                "noise_chunks": 2,
            }
        ],
        "candidates": [{"ftype": ["Q8_0", "Q4_0"]}],
    }


def as_toml(definition: dict[str, Any]) -> str:
    """The same as a file; JSON's scalars and lists are TOML's."""
    lines = [f"reference = {json.dumps(definition['reference'])}"]
    for key in ("texts", "tasks", "candidates"):
        for table in definition.get(key, ()):
            lines += [f"[[{key}]]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    for name, table in definition.get("matrices", {}).items():
        lines += [f"[matrices.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def comparable(results: Results) -> dict[str, Any]:
    """All of it but when, and with how many threads, which changes no number."""
    found = results.to_dict()
    found.pop("created")
    (found["settings"] or {}).pop("n_threads")
    return found


def install_events() -> None:
    """What Ray calls in every new worker process."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    own_facts, own_run = ray_worker.worker_facts, Worker.run

    def facts(placement: Placement) -> WorkerFacts:
        found = own_facts(placement)
        if _claimed(folder / "other-version"):
            return replace(found, version="0.0.1", host="node-b")
        return found

    def run(self: Worker, job: Job) -> Outcome:
        if _claimed(folder / "full-disk"):
            # The system refuses to make files longer: as a full disk does, in one process.
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
        abort = folder / "abort"
        if abort.exists() and abort.read_text() in job.label:
            with (folder / "aborted").open("a") as file:
                file.write(f"{job.label}\n")
            os.abort()
        return own_run(self, job)

    ray_worker.worker_facts = facts
    Worker.run = run  # type: ignore[method-assign]


def _claimed(event: Path) -> bool:
    """One process only gets the event."""
    try:
        event.rename(event.with_name(f"{event.name}.taken"))
    except OSError:
        return False
    return True
