"""One revision of a model's repository: what is in it, ranges of its files, whole files."""

from __future__ import annotations

import hashlib
import inspect
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from apex_native.errors import Cancelled, HubError
from apex_native.hub.address import HubAddress
from apex_native.hub.client import client, explained

__all__ = ["HubFile", "HubRepository"]

_HASH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of the listing; sha256 of what is stored apart, else git's sha1 of a blob."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


class HubRepository:
    """A repository at one commit, whatever its branches do from now on."""

    def __init__(self, address: HubAddress, commit: str, files: Mapping[str, HubFile]) -> None:
        """See `open`."""
        self.address = address
        self.commit = commit
        self.files = files
        self._stopped = threading.Event()

    @classmethod
    def open(cls, address: HubAddress) -> Self:
        """Ask the hub for the commit of a revision and its files. Raises HubError."""
        hub = client()
        with explained(str(address)):
            info = hub.HfApi().model_info(
                address.repo, revision=address.revision, files_metadata=True
            )
            files = {file.rfilename: _hub_file(file) for file in info.siblings or ()}
        if not info.sha:
            raise HubError(f"{address}: the hub names no commit for it; try again")
        return cls(address, info.sha, MappingProxyType(files))

    def at(self, name: str) -> str:
        """A file as an address with its commit, for messages."""
        return f"hf://{self.address.repo}@{self.commit[:8]}/{name}"

    def read(self, name: str, begin: int, end: int) -> bytes:
        """The file's bytes from begin up to end, and no others. Raises HubError."""
        hub = client()
        with explained(self.at(name)):
            url = hub.hf_hub_url(self.address.repo, name, revision=self.commit)
            headers = {**hub.utils.build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
            answer = hub.utils.http_backoff("GET", url, headers=headers, timeout=30)
            hub.utils.hf_raise_for_status(answer)
        content: bytes = answer.content
        if len(content) != end - begin:
            raise HubError(
                f"{self.at(name)}: {end - begin:,} bytes from {begin:,} on were asked for, "
                f"{len(content):,} came; try again"
            )
        return content

    def download(self, name: str, folder: Path | None = None) -> Path:
        """The whole file, its hash checked: in the client's own cache, or in a folder.

        A file that does not have its hash is fetched once more. Raises HubError, Cancelled after
        `stop`.
        """
        path = self._fetched(name, folder, again=False)
        if not self._is_right(name, path):
            path = self._fetched(name, folder, again=True)
            if not self._is_right(name, path):
                path.resolve().unlink(missing_ok=True)
                raise HubError(
                    f"{self.at(name)}: what comes does not have the hash that the hub names for "
                    "it, twice; try again later, or another network"
                )
        return path

    def stop(self) -> None:
        """Let downloads that are under way, and later ones, end with Cancelled."""
        self._stopped.set()

    def _fetched(self, name: str, folder: Path | None, *, again: bool) -> Path:
        hub = client()
        settings: dict[str, Any] = {} if folder is None else {"local_dir": folder}
        if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:
            settings["tqdm_class"] = _silent_progress(hub, self._stopped)
        with explained(self.at(name)):
            return Path(
                hub.hf_hub_download(
                    self.address.repo, name, revision=self.commit, force_download=again, **settings
                )
            )

    def _is_right(self, name: str, path: Path) -> bool:
        """Has it its size and hash? What had them stays right until it is touched."""
        file = self.files[name]
        status = path.stat()
        if status.st_size != file.size:
            return False
        mark = _mark(file, status)
        if mark.exists():
            return True
        if not self._has_hash(file, path):
            return False
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return True

    def _has_hash(self, file: HubFile, path: Path) -> bool:
        digest = hashlib.sha256()
        expected = file.sha256
        if expected is None:
            if file.git_sha1 is None:
                return True
            digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            expected = file.git_sha1
        with path.open("rb") as stream:
            while piece := stream.read(_HASH_BYTES):
                if self._stopped.is_set():
                    raise Cancelled("stopped by the caller")
                digest.update(piece)
        return digest.hexdigest() == expected


def _hub_file(file: Any) -> HubFile:
    lfs = file.lfs
    sha256 = getattr(lfs, "sha256", None) if lfs is not None else None
    return HubFile(file.rfilename, file.size or 0, sha256, file.blob_id)


def _mark(file: HubFile, status: os.stat_result) -> Path:
    """A file that says of another, by inode and time, that it was hashed and found right."""
    text = repr((file.sha256, file.git_sha1, status.st_dev, status.st_ino, status.st_mtime_ns))
    name = hashlib.sha256(text.encode()).hexdigest()
    return Path(client().constants.HF_HOME) / "apex-native-verified" / name


def _silent_progress(hub: Any, stopped: threading.Event) -> type[Any]:
    """The client's progress bar without a bar: where a download can be stopped."""
    base: type[Any] = hub.utils.tqdm

    class Progress(base):  # type: ignore[misc]  # an untyped package
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:  # noqa: ARG002  (the bar's)
            if stopped.is_set():
                raise Cancelled("stopped by the caller")
            return None

    return Progress
