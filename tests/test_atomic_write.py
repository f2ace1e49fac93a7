"""The one writer of small output files: whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.atomic_write import require_place, write_atomically
from apex_native.errors import OutputError
from cli_tools import write_experts, write_imatrix


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_atomically(path, "größer → ±\n", what="report")
    assert path.read_bytes() == "größer → ±\n".encode()
    write_atomically(path, b"\x89PNG\r\n", what="plot")
    assert path.read_bytes() == b"\x89PNG\r\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_atomically(path, "new", what="manifest", advice="choose another with --manifest")
    if expected is OutputError:
        message = f"cannot write manifest {path}: No space left on device; choose another with"
        assert str(caught.value).startswith(message)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder", "n" * 300])
def test_a_place_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"cannot write report .*; choose another place"):
        write_atomically(tmp_path / name, "text", what="report")
    assert list(tmp_path.iterdir()) == []


AS_NOBODY = """
import os
from pathlib import Path
from apex_native.atomic_write import require_place
from apex_native.cli.outputs import guard_outputs
from apex_native.errors import OutputError

if os.geteuid() == 0:
    os.setuid(65534)
guard_outputs({"output": Path("/apex.gguf"), "dry_run": True})
for work in (
    lambda: require_place("/apex.gguf"),
    lambda: require_place("/new/folder/apex.gguf"),
    lambda: guard_outputs({"output": Path("/apex.gguf")}),
    lambda: guard_outputs({"jsonl": Path("/apex.jsonl"), "output": None}),
):
    try:
        work()
    except OutputError as error:
        print(error)
"""


def test_a_folder_that_may_not_be_written_is_found_before_the_work() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert all("the folder / is not writable; choose another place" in line for line in lines)


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    model = write_experts(tmp_path / "m.gguf", n_layers=1, rows=2)
    matrix = apex.load_imatrix(write_imatrix(tmp_path / "i.gguf", n_layers=1))
    for write in (
        lambda: write_atomically(pipe, "text", what="report"),
        lambda: require_place(pipe),
        lambda: apex.quantize(model, apex.make_plan(model, ftype="Q8_0"), pipe, force=True),
        lambda: apex.save_imatrix(matrix, pipe),
    ):
        with pytest.raises(OutputError, match=r"pipe is a device or a pipe, expected a file"):
            write()
    assert pipe.is_fifo()


def test_a_disk_without_room_is_found_before_the_work(tmp_path: Path) -> None:
    require_place(tmp_path / "out")
    require_place(tmp_path)
    more = 2 * shutil.disk_usage(tmp_path).free
    with pytest.raises(OutputError, match=f"bytes free, expected {more:,} or more; free some"):
        require_place(tmp_path / "new" / "out", more)
