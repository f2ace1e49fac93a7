"""Where a model is on the hub: ``hf://owner/repo[@revision][/file or folder]``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

from apex_native.errors import HubError

__all__ = ["HubAddress", "is_address", "parse_address"]

# A Path makes one slash of two, and paths are what command lines and callers hold.
_SCHEME = re.compile(r"^hf:/+")
_ADDRESS = re.compile(
    r"^hf:/+(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<path>.*))?$"
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository of models; revision None: its main branch; path "": all of it."""

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")

    @property
    def name(self) -> str:
        """What a file made of it is named after."""
        return (self.path or self.repo).rpartition("/")[2]


def is_address(path: str | os.PathLike[str]) -> bool:
    """Is it meant for the hub, and no path?"""
    return _SCHEME.match(os.fspath(path)) is not None


def _shown(path: str | os.PathLike[str]) -> str:
    """As it was typed: a `Path` makes one slash of two."""
    return re.sub(r"^hf:/+", "hf://", os.fspath(path))


def parse_address(path: str | os.PathLike[str]) -> HubAddress:
    """The parts of an address; slashes of a branch are written %2F. Raises HubError."""
    found = _ADDRESS.match(os.fspath(path))
    if found is None:
        raise HubError(
            f"{_shown(path)}: no address of a model, expected hf://owner/repo[@revision][/file]"
        )
    revision = found["revision"]
    parts = [part for part in (found["path"] or "").split("/") if part]
    if ".." in parts:
        raise HubError(f"{_shown(path)}: leads out of the repository; name a file in it")
    return HubAddress(
        found["repo"], None if revision is None else unquote(revision), "/".join(parts)
    )
