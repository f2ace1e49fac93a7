"""Where the bytes of a checkpoint's tensors are: in a folder, or on the hub until they are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apex_native._native import core
from apex_native.errors import HubError
from apex_native.hub import HubRepository, Shards, Workspace
from apex_native.types import TensorInfo
from apex_native.weights import RowFiles, RowRange

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["HubWeights", "LocalWeights", "WeightFiles"]

BLOCK_BYTES = 16 << 20
"""What is read of a shard at once while it is held."""

SMALL_READ = 64 << 10
MAX_SMALL_READS = 1000


class WeightFiles(Protocol):
    """What a checkpoint asks of its files."""

    @property
    def missing(self) -> str | None:
        """A sentence where they cannot be read whatever happens."""
        ...

    def before_read(self, path: Path, offset: int, size: int) -> None:
        """The converter looks at weights while it makes the header."""
        ...

    def tensor(self, info: TensorInfo, ranges: Sequence[RowRange]) -> Any:
        """A tensor whose rows are those of the ranges, for native readers."""
        ...

    def reading(self, paths: frozenset[Path]) -> AbstractContextManager[None]:
        """Entered while values are computed from these files."""
        ...

    def identity(self, paths: Sequence[Path]) -> str:
        """Another one whenever a file may have changed."""
        ...

    def interrupt(self) -> None:
        """Let workers that wait go: nobody wants what they read any more."""
        ...

    def close(self) -> None:
        """Let go; tensors that workers hold of a folder stay readable."""
        ...


class LocalWeights:
    """Files of a folder: they are read where they lie."""

    missing = None

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._files = RowFiles()

    def before_read(self, path: Path, offset: int, size: int) -> None:
        """Nothing to do."""

    def tensor(self, info: TensorInfo, ranges: Sequence[RowRange]) -> Any:
        """Rows by position in the files."""
        return self._files.tensor(info, ranges)

    def reading(self, paths: frozenset[Path]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing to do."""
        return nullcontext()

    def identity(self, paths: Sequence[Path]) -> str:
        """Name, size and time of each file."""
        states = [(path, path.stat()) for path in paths]
        return "".join(repr((path.name, s.st_size, s.st_mtime_ns)) for path, s in states)

    def interrupt(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Close what no tensor holds."""
        self._files = RowFiles()


class HubWeights:
    """Shards of the hub, each of which comes when it is read, and may go after."""

    def __init__(
        self, repository: HubRepository, shards: Shards, workspace: Workspace, *, needs_data: bool
    ) -> None:
        """needs_data: what the converter looks at is fetched; otherwise it may see zeros."""
        self._repository = repository
        self._shards = shards
        self._workspace = workspace
        self._needs_data = needs_data
        self._n_small_reads = 0
        self.missing: str | None = None

    @property
    def shards(self) -> Shards:
        """The shards as they come and go."""
        return self._shards

    def before_read(self, path: Path, offset: int, size: int) -> None:
        """A few bytes come by themselves; for more the whole shard, unless only a plan is made."""
        if self._needs_data:
            with self._shards.holding({path}):
                return
        if size > SMALL_READ:
            self.missing = f"{self._repository.address}: opened for a plan, without weights"
            return
        self._n_small_reads += 1
        if self._n_small_reads > MAX_SMALL_READS:
            raise HubError(
                f"{self._repository.address}: upstream's converter looks at more than "
                f"{MAX_SMALL_READS:,} of its tensors to say what the file would be; download the "
                "checkpoint and give its folder"
            )
        self._shards.read_small(path, offset, offset + size)

    def tensor(self, info: TensorInfo, ranges: Sequence[RowRange]) -> Any:
        """Rows in blocks, each of which is copied while its shard is here."""
        row_bytes = info.type.row_bytes(info.n_per_row)
        blocks = [(self._blocks(r, row_bytes), 0, r.n_rows, None) for r in ranges]
        return core.StoredTensor(info.name, info.type.id, list(info.shape), blocks)

    def _blocks(self, rows: RowRange, row_bytes: int) -> Any:
        import numpy as np  # where it is needed: planning works without

        n_per_block = max(1, min(rows.n_rows, BLOCK_BYTES // row_bytes))
        n_stored = rows.n_rows if rows.order is None else int(rows.order.max()) + 1

        def block_of(block: int) -> npt.NDArray[np.uint8]:
            first = block * n_per_block
            last = min(first + n_per_block, rows.n_rows)
            with self._shards.holding({rows.path}):
                stored = np.memmap(
                    rows.path, np.uint8, "r", offset=rows.offset, shape=(n_stored, row_bytes)
                )
                which = slice(first, last) if rows.order is None else rows.order[first:last]
                return np.array(stored[which]).reshape(-1)

        return core.RowBlocks(rows.n_rows, n_per_block, row_bytes, block_of)

    def reading(self, paths: frozenset[Path]) -> AbstractContextManager[None]:
        """Have the shards here."""
        return self._shards.holding(paths)

    def identity(self, paths: Sequence[Path]) -> str:
        """Name, size and hash of each file, as the hub states them."""
        return "".join(repr(self._shards.file(path)) for path in paths)

    def interrupt(self) -> None:
        """End downloads."""
        self._shards.stop()

    def close(self) -> None:
        """Remove what was fetched for this checkpoint alone."""
        self._workspace.close()
