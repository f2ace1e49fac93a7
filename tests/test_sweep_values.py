"""The values of a sweep: jobs and their keys, definitions and their grids; store, queue, files."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_native as apex
from apex_native.errors import DataError, OutputError
from apex_native.plan import tier_text
from apex_native.sweeps import SweepStore, read_definition
from apex_native.sweeps.candidates import choices_of, make_candidates
from apex_native.sweeps.jobs import (
    Block,
    Candidate,
    Conditions,
    MatrixJob,
    NoiseJob,
    ProbeJob,
    ScoreJob,
    SharedFile,
    TaskJob,
    job_key,
)
from apex_native.sweeps.local_files import LocalFiles, read_piece, shared_file, shared_model
from apex_native.sweeps.queue import JobQueue
from tiny_models import write_tiny_model

BLOCK = Block.of("text", 0, np.arange(8, dtype=np.int32), 4, 512)
FILE = SharedFile("a.gguf", 1, "f" * 64)
CANDIDATE = Candidate("a", plan="{}", matrix=FILE)
CONDITIONS = Conditions("1", "abc", "gcc", "CPU", "no GPU", "r" * 64)
JOBS = [
    ScoreJob(CANDIDATE, BLOCK),
    NoiseJob(BLOCK, 32),
    MatrixJob(BLOCK, 512),
    TaskJob(CANDIDATE, "t", "hellaswag", FILE),
    ProbeJob("1.down Q4_0", (("a", "Q4_0"),), None, BLOCK),
]
OTHER = Block.of("text", 0, np.arange(1, 9, dtype=np.int32), 4, 512)
CHANGES = [
    replace(JOBS[0], block=OTHER),
    replace(JOBS[0], block=replace(BLOCK, ctx=8)),
    replace(JOBS[0], block=replace(BLOCK, n_ubatch=256)),
    replace(JOBS[0], router=False),
    replace(JOBS[0], candidate=replace(CANDIDATE, plan="{ }")),
    replace(JOBS[0], candidate=replace(CANDIDATE, matrix=replace(FILE, digest="e" * 64))),
    replace(JOBS[0], candidate=replace(CANDIDATE, matrix=None)),
    replace(JOBS[0], candidate=replace(CANDIDATE, file=FILE)),
    replace(JOBS[0], candidate=replace(CANDIDATE, type_k="q8_0")),
    replace(JOBS[0], candidate=replace(CANDIDATE, type_v="q8_0")),
    replace(JOBS[1], n_positions=16),
    replace(JOBS[2], batch=1024),
    replace(JOBS[3], n_tasks=None),
    replace(JOBS[3], file=replace(FILE, digest="e" * 64)),
    replace(JOBS[3], candidate=None),
    replace(JOBS[4], types=(("a", "Q8_0"),)),
    replace(JOBS[4], matrix=FILE),
]


def test_a_key_says_all_that_matters_and_nothing_else() -> None:
    keys = [job_key(job, CONDITIONS) for job in (*JOBS, *CHANGES)]
    keys += [
        job_key(JOBS[0], replace(CONDITIONS, **{field.name: "another"}))
        for field in fields(Conditions)
    ]
    assert len(set(keys)) == len(keys)
    renamed = ScoreJob(replace(CANDIDATE, name="b"), replace(BLOCK, text="other", index=3))
    assert job_key(renamed, CONDITIONS) == keys[0]


def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    with SweepStore(tmp_path / "s.sqlite"), pytest.raises(DataError, match="another sweep"):
        SweepStore(tmp_path / "s.sqlite")
    (tmp_path / "no.sqlite").write_text("text " * 1000)
    with pytest.raises(DataError, match="no store"):
        SweepStore(tmp_path / "no.sqlite")


def test_workers_keep_to_a_model_and_help_at_the_end() -> None:
    candidates = [Candidate(name, plan=name) for name in "ab"]
    blocks = [replace(BLOCK, index=i) for i in range(3)]
    queue = JobQueue(ScoreJob(candidate, block) for candidate in candidates for block in blocks)
    taken = [(worker, queue.next(worker)) for worker in (0, 1, 0, 0, 0, 1)]
    assert [job.candidate.name for _, job in taken if isinstance(job, ScoreJob)] == [*"abaabb"]
    assert queue.next(0) is None
    assert not queue


# --- definitions --------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "reference": "a.gguf",
    "texts": [{"file": "t.txt"}],
    "candidates": [{"tier": "quality"}],
}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"reference": 3}, "reference must be a text"),
    ({"texts": []}, "texts must not be empty"),
    ({"texts": [{"file": "t.txt"}, {"file": "u/t.txt"}]}, "two named 't.txt'"),
    ({"texts": [{"file": "t.txt", "ctx": 1}]}, r"texts\[0\].ctx must be a whole number from 4 on"),
    ({"candidates": []}, "candidates must not be empty"),
    ({"probes": [{"types": "Q9"}]}, r"probes\[0\].types"),
    ({"probes": [{"types": "Q4_0", "matrix": "m"}]}, r"no \[matrices.NAME\] at all"),
    ({"candidates": [{}]}, "tier or ftype or like or plan or file must be given"),
    ({"candidates": [{"tier": "mini", "ftype": "b"}]}, "found tier and ftype"),
    ({"candidates": [{"tier": "mini", "tire": 1}]}, "did you mean 'tier'"),
    ({"candidates": [{"tier": "mini", "matrix": "m"}]}, "at all\\), found 'm'"),
    (
        {"candidates": [{"tier": "quality", "prior": "zz"}]},
        r"candidates\[0\].prior 'zz' is no prior",
    ),
    ({"candidates": [{"tier": "mini", "cache": "q9"}]}, "a KV cache cannot have type q9"),
    ({"matrices": {"m": {}}}, "file or text must be given"),
    ({"matrices": {"none": {"text": "diverse"}}}, "stands for no matrix"),
    ({"matrices": {"m": {"text": "diverse", "seeds": ["a"]}}}, "must be whole numbers"),
    ({"candidates": [{"tier": ["quality", "minii"]}]}, "unknown tier 'minii'; did you mean mini"),
    ({"candidates": [{"ftype": "Q4_KM"}]}, r"candidates\[0\].ftype .*did you mean Q4_K_M"),
    ({"texts": [{"file": "t.txt", "chunk": 4}]}, "did you mean 'chunks'"),
    ({"texts": [{"file": "t.txt", "x": 4}]}, "known: block, chunks, ctx, file, name, noise_chunks"),
    ({"matrix": 1}, "is no known key"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_definition_says_what_is_wrong_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_definition({**GOOD, **change})
    read_definition(GOOD)


def test_a_grid_is_every_combination() -> None:
    grid = {
        "tier": ["quality", "mini"],
        "matrix": ["none", "m"],
        "prior": ["auto", "none"],
        "cache": ["f16", "q8_0"],
    }
    data = {
        **GOOD,
        "matrices": {"m": {"text": "diverse", "seeds": [1, 2]}},
        "candidates": [grid, {"ftype": "Q4_K_M", "name": "mix"}],
    }
    names = [choice.name for choice in choices_of(read_definition(data))]
    # Without a matrix there is no prior to choose: (1 + 2 seeds x 2 priors) x 2 caches x 2 tiers.
    assert len(names) == 21
    assert names[-1] == "mix"
    assert "mini m-2 prior none (cache q8_0/q8_0)" in names
    twice = {**GOOD, "candidates": [{"tier": "quality"}, {"tier": ["mini", "quality"]}]}
    with pytest.raises(DataError, match="two candidates are named 'quality'"):
        choices_of(read_definition(twice))


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_copied_where_it_is_not_shared(tmp_path: Path) -> None:
    here = write_tiny_model(tmp_path / "model.gguf", "llama")
    model = replace(shared_model(here), path="/nowhere/model.gguf")
    asked: list[int] = []

    def fetch(path: str, offset: int, n_bytes: int) -> bytes:
        assert path == model.path
        asked.append(n_bytes)
        return read_piece(str(here), offset, n_bytes)

    files = LocalFiles(tmp_path / "cache", fetch)
    copy_here = files.path(model)
    assert copy_here.read_bytes() == here.read_bytes()
    assert sum(asked) == here.stat().st_size
    assert LocalFiles(tmp_path / "cache").path(model) == copy_here
    with pytest.raises(DataError, match="is not here"):
        LocalFiles(tmp_path / "empty").path(model)


def test_another_file_at_the_path_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "task.txt"
    path.write_text("first")
    file = shared_file(path)
    path.write_text("other")
    with pytest.raises(DataError, match="something else"):
        LocalFiles(tmp_path / "cache").path(file)
    with pytest.raises(DataError, match="changed while it was copied"):
        LocalFiles(tmp_path / "cache", read_piece).path(file)
    assert os.listdir(tmp_path / "cache") == []  # noqa: PTH208
    huge = replace(file, path="/nowhere", nbytes=1 << 62)
    with pytest.raises(OutputError, match="bytes free"):
        LocalFiles(tmp_path / "cache", read_piece).path(huge)


def test_types_of_another_file_and_of_a_recipe_are_candidates(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model.gguf", "qwen3moe")
    (tmp_path / "own.toml").write_text(tier_text("quality"))
    with apex.open_gguf(tmp_path / "model.gguf") as source:
        apex.quantize(source, apex.make_plan(source, ftype="Q5_0"), tmp_path / "theirs.gguf")
        definition = read_definition(
            {
                "reference": "model.gguf",
                "texts": [{"file": "text.txt"}],
                "candidates": [{"like": "theirs.gguf"}, {"tier": ["own.toml"]}],
            },
            tmp_path,
        )
        found = make_candidates(source, choices_of(definition), {})
        expected = (
            apex.make_plan(source, like=tmp_path / "theirs.gguf"),
            apex.make_plan(source, tier=str(tmp_path / "own.toml")),
        )
    assert [one.name for one in found.candidates] == ["theirs", "own"]
    assert [one.plan for one in found.candidates] == [plan.to_json() for plan in expected]
