"""The store: found by content, whole after a kill, merged from other machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apex_native.allocation import Probe, ProbeStore, Scores
from apex_native.errors import DataError

PROBE = Probe("model", {"a": "Q4_K", "b": "Q6_K"}, "matrix", "tokens", 512)
SCORES = Scores(255, 1.25, 300.0, 299.5, 250)


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    with ProbeStore(tmp_path / "kept") as store:
        store.add([(PROBE, SCORES)])
    with ProbeStore(tmp_path / "kept") as store:
        assert store.find([PROBE.key, "another"]) == {PROBE.key: SCORES}
        assert len(store) == 1


def test_a_key_depends_on_what_is_measured_and_on_nothing_else() -> None:
    same = Probe("model", {"b": "Q6_K", "a": "Q4_K"}, "matrix", "tokens", 512)
    assert same.key == PROBE.key
    others = [
        Probe("other", PROBE.types, "matrix", "tokens", 512),
        Probe("model", {"a": "Q4_K"}, "matrix", "tokens", 512),
        Probe("model", {"a": "Q5_K", "b": "Q6_K"}, "matrix", "tokens", 512),
        Probe("model", PROBE.types, "", "tokens", 512),
        Probe("model", PROBE.types, "matrix", "other", 512),
        Probe("model", PROBE.types, "matrix", "tokens", 256),
        Probe("model", PROBE.types, "matrix", "tokens", 512, bytes="feedback 1"),
    ]
    assert len({probe.key for probe in others} | {PROBE.key}) == len(others) + 1


def test_an_entry_is_never_overwritten(tmp_path: Path) -> None:
    with ProbeStore(tmp_path) as store:
        store.add([(PROBE, SCORES)])
        store.add([(PROBE, Scores(1, 0.0, 0.0, 0.0, 0))])
        assert store.find([PROBE.key])[PROBE.key] == SCORES


def test_another_machines_entries_are_taken_over(tmp_path: Path) -> None:
    other = Probe("model", {"c": "Q4_K"}, "matrix", "tokens", 512)
    with ProbeStore(tmp_path / "there") as there:
        there.add([(PROBE, SCORES), (other, SCORES)])
    with ProbeStore(tmp_path / "here") as here:
        here.add([(PROBE, SCORES)])
        assert here.merge(tmp_path / "there") == 1
        assert set(here.find([PROBE.key, other.key])) == {PROBE.key, other.key}


ADDS_FOR_EVER = """
import sys
from apex_native.allocation import Probe, ProbeStore, Scores
with ProbeStore(sys.argv[1]) as store:
    i = 0
    while True:
        probes = [Probe("model", {"t": "Q4_K"}, "", f"{i}/{k}", 512) for k in range(20)]
        store.add([(probe, Scores(255, float(i), 1.0, 1.0, 1)) for probe in probes])
        i += 1
        print(i, flush=True)
"""


def test_a_kill_leaves_whole_transactions(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ADDS_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        finished = [int(process.stdout.readline()) for _ in range(5)][-1]
        os.kill(process.pid, signal.SIGKILL)
    with ProbeStore(tmp_path) as store:
        assert len(store) >= 20 * finished
        assert len(store) % 20 == 0


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "probes.sqlite"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(DataError, match="no store of probes"):
        ProbeStore(path)
