"""Shards of a checkpoint that are on this disk while their rows are read, and no longer."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from apex_native.errors import HubError
from apex_native.hub.repository import HubFile, HubRepository

__all__ = ["Shards"]


class Shards:
    """Stand-ins of a repository's files in a folder, which become the files when they are read.

    A stand-in has its file's size and its first bytes, and otherwise takes no room. Without a limit
    a file stays in the client's cache, and its place becomes a link to it. With one, files lie in
    the folder itself, together never more than limit bytes: those that were not read for the
    longest time go, and come again if they are wanted again.
    """

    def __init__(
        self,
        repository: HubRepository,
        headers: Mapping[Path, tuple[str, bytes]],
        limit: int | None,
        downloads: Path,
    ) -> None:
        """Write the stand-ins. headers: place → name in the repository and first bytes.

        downloads: an empty folder on the same disk as the places.
        """
        self._repository = repository
        self._headers = headers
        self._limit = limit
        self._downloads = downloads
        self._changed = threading.Condition()
        self._present: OrderedDict[Path, None] = OrderedDict()
        self._coming: set[Path] = set()
        self._holders: Counter[Path] = Counter()
        self.n_downloads = 0
        for path in headers:
            self._put_stand_in(path)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The places."""
        return tuple(self._headers)

    def file(self, path: Path) -> HubFile:
        """The file whose place this is."""
        return self._repository.files[self._headers[path][0]]

    def size(self, path: Path) -> int:
        """Its bytes."""
        return self.file(path).size

    @contextmanager
    def holding(self, paths: Collection[Path]) -> Iterator[None]:
        """Have the files whole at their places, and keep them there until the end.

        Raises HubError where one cannot be had, or the limit has no room for all of them at once;
        Cancelled after `stop`.
        """
        wanted = {path for path in paths if path in self._headers}
        self._acquire(wanted)
        try:
            yield
        finally:
            with self._changed:
                self._holders.subtract(wanted)
                self._changed.notify_all()

    def read_small(self, path: Path, begin: int, end: int) -> None:
        """Fetch a few bytes into the stand-in, for a converter that looks at them."""
        if path in self._present:
            return
        content = self._repository.read(self._headers[path][0], begin, end)
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(content)

    def stop(self) -> None:
        """Let all who wait for a file go, with Cancelled."""
        self._repository.stop()

    def _acquire(self, wanted: set[Path]) -> None:
        """Hold all or none: who waits holds nothing that others could wait for."""
        self._require_room(wanted)
        with self._changed:
            while True:
                missing = wanted - self._present.keys()
                if not missing & self._coming and self._make_room(missing, wanted):
                    break
                self._changed.wait()
            self._holders.update(wanted)
            self._coming |= missing
            for path in wanted & self._present.keys():
                self._present.move_to_end(path)
        try:
            for path in sorted(missing):
                self._fetch(path)
        except BaseException:
            with self._changed:
                self._holders.subtract(wanted)
                self._coming -= missing
                self._changed.notify_all()
            raise

    def _fetch(self, path: Path) -> None:
        name = self._headers[path][0]
        if self._limit is None:
            found = self._repository.download(name).resolve()
            link = path.with_name(path.name + ".link")
            link.symlink_to(found)
            link.replace(path)
        else:
            self._repository.download(name, self._downloads).replace(path)
        with self._changed:
            self.n_downloads += 1
            self._coming.discard(path)
            self._present[path] = None
            self._changed.notify_all()

    def _make_room(self, missing: set[Path], wanted: set[Path]) -> bool:
        """Let files go until the missing ones fit; False where others hold what had to go."""
        if self._limit is None or not missing:
            return True
        taken = sum(self.size(path) for path in self._present.keys() | self._coming)
        excess = taken + sum(self.size(path) for path in missing) - self._limit
        leaving = []
        for path in self._present:
            if excess <= 0:
                break
            if not self._holders[path] and path not in wanted:
                leaving.append(path)
                excess -= self.size(path)
        if excess > 0:
            return False
        for path in leaving:
            del self._present[path]
            self._put_stand_in(path)
        return True

    def _require_room(self, wanted: set[Path]) -> None:
        needed = sum(self.size(path) for path in wanted)
        if self._limit is not None and needed > self._limit:
            raise HubError(
                f"{self._repository.address}: the cache may hold {self._limit:,} bytes, and "
                f"{needed:,} are needed at once ({len(wanted)} of its files); raise `cache_limit`"
            )

    def _put_stand_in(self, path: Path) -> None:
        name, header = self._headers[path]
        made = path.with_name(path.name + ".stand-in")
        with made.open("wb") as file:
            file.write(header)
            os.truncate(file.fileno(), self._repository.files[name].size)
        made.replace(path)
