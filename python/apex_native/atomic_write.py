"""Small output files, whole or not at all: a temporary file beside the target, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path

from apex_native.errors import OutputError

__all__ = ["write_atomically"]


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
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
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
