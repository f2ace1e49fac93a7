"""Small output files, whole or not at all: a temporary file beside the target, synced, renamed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from apex_native.errors import OutputError

__all__ = ["free_name", "make_folder", "nearest_folder", "require_file", "require_place",
           "write_atomically"]  # fmt: skip

_LEAST = 1 << 20
"""Bytes that every disk must have free before work is begun: results, manifests, journals."""


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise OutputError where something lies that is neither file nor folder, as /dev/null.

    What is written whole takes a name over: root's machine would be left without its device.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device or a pipe, expected a file; choose another name")


def require_place(path: str | os.PathLike[str], n_bytes: int = _LEAST) -> None:
    """Raise OutputError where a file, or a folder's files, could not be written when it is time.

    To be asked before work whose result would be lost. A folder that is missing is looked at where
    it would be made.
    """
    path = Path(path).absolute()
    try:
        require_file(path)
        folder = nearest_folder(path)
    except OutputError:
        raise
    except OSError as error:  # a folder on the way that may not be looked into
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    if not os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        raise OutputError(
            f"cannot write {path}: the folder {folder} is not writable; choose another place"
        )
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OutputError(
            f"cannot write {path}: its disk has {free:,} bytes free, expected {n_bytes:,} or more; "
            "free some space or choose another disk"
        )


def make_folder(path: str | os.PathLike[str]) -> None:
    """A folder with those above it, where there is none. Raises OutputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {path}: {error.strerror or error}") from error


def nearest_folder(path: Path) -> Path:
    """The folder of that name, or the nearest one above it that exists; absolute."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def free_name(path: Path) -> Path:
    """``eval-2.json`` for eval.json, or the next number that no file has."""
    number = 2
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


def write_atomically(
    path: str | os.PathLike[str],
    content: str | bytes,
    *,
    what: str,
    advice: str = "choose another place",
) -> None:
    """Replace ``path`` by a file that holds ``content``; text is written as UTF-8.

    what names the file in errors ("plan"), advice says what to do. Where writing fails or is
    interrupted the old file stays and no temporary one is left. Raises OutputError.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        require_file(path)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        _remove(temporary)
        raise OutputError(
            f"cannot write {what} {path}: {error.strerror or error}; {advice}"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(temporary: Path) -> None:
    # A path that cannot be written can often not be unlinked either (name too long, no folder).
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
