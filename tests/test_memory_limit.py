"""The memory limits of control groups: both versions' files as the kernel lays them out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_native.machine import free_memory
from apex_native.memory_limit import memory_below_limits

GIB = 1 << 30


def group(folder: Path, version: int, *, limit: object, usage: int, files: int = 0) -> None:
    """A group whose files in memory are half active, half not."""
    limit_name, usage_name, prefix = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        2: ("memory.max", "memory.current", ""),
    }[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / usage_name).write_text(f"{usage}\n")
    lines = [f"{prefix}active_file {files // 2}", f"{prefix}inactive_file {files // 2}"]
    (folder / "memory.stat").write_text("anon 1\n" + "\n".join(lines) + "\n")


def process(folder: Path, paths: str, *mounts: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(paths)
    (folder / "mountinfo").write_text("".join(f"{mount}\n" for mount in mounts))
    return folder


def unified(top: Path, root: str = "/") -> str:
    return f"30 23 0:26 {root} {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def memory_of_version_1(top: Path, root: str = "/") -> str:
    return f"35 31 0:32 {root} {top} rw,relatime - cgroup cgroup rw,memory"


def test_the_narrowest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    top = tmp_path / "fs"
    group(top / "a.slice/job", 2, limit="max", usage=GIB)
    group(top / "a.slice", 2, limit=8 * GIB, usage=5 * GIB, files=2 * GIB)
    group(top, 2, limit=100 * GIB, usage=6 * GIB)
    proc = process(tmp_path / "proc", "0::/a.slice/job\n", unified(top))
    assert memory_below_limits(proc) == 5 * GIB
    group(top / "a.slice/job", 2, limit=GIB, usage=GIB // 2)
    assert memory_below_limits(proc) == GIB // 2


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path / "fs/job", 2, limit=GIB, usage=2 * GIB)
    proc = process(tmp_path / "proc", "0::/job\n", unified(tmp_path / "fs"))
    assert memory_below_limits(proc) == 0


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    for number, (root, path) in enumerate((("/docker/4f2", "/docker/4f2"), ("/../..", "/x"))):
        top = tmp_path / str(number)
        group(top, 1, limit=4 * GIB, usage=3 * GIB, files=GIB)
        proc = process(tmp_path / "proc", f"4:memory:{path}\n", memory_of_version_1(top, root))
        assert memory_below_limits(proc) == 2 * GIB


def test_both_versions_at_once(tmp_path: Path) -> None:
    group(tmp_path / "memory/job", 1, limit=2 * GIB, usage=0)
    group(tmp_path / "memory", 1, limit=9223372036854771712, usage=0)
    (tmp_path / "unified").mkdir()
    proc = process(
        tmp_path / "proc", "5:cpuset:/\n4:cpu,memory:/job\n0::/\n",
        memory_of_version_1(tmp_path / "memory"), unified(tmp_path / "unified"),
    )  # fmt: skip
    assert memory_below_limits(proc) == 2 * GIB


@pytest.mark.parametrize("text", ["", "no line of these\n", "1 2 3\n0::\n:::\n"])
def test_what_cannot_be_read_sets_no_limit(tmp_path: Path, text: str) -> None:
    assert memory_below_limits(tmp_path) is None
    assert memory_below_limits(process(tmp_path / "proc", text, text.strip())) is None


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real group of this machine with 3 GiB; skips where nobody may make one."""
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = parent / "apex-native-test"
        try:
            folder.mkdir()
            name = "memory.max" if parent.name == "cgroup" else "memory.limit_in_bytes"
            (folder / name).write_text(str(3 * GIB))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_real_limit_is_seen(limited: Path) -> None:
    code = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()));"
        "from apex_native.machine import free_memory; print(free_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, limited / "cgroup.procs"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    free = free_memory()
    assert free is not None
    assert 0 < int(done.stdout) <= 3 * GIB
    if free > 3 * GIB:
        assert int(done.stdout) > 2 * GIB
