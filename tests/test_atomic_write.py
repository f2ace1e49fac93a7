"""The one writer of small output files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apex_native.atomic_write import write_atomically
from apex_native.errors import OutputError


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
