"""The files a run writes: partial until they are whole, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from apex_native._native import core
from apex_native.atomic_write import require_file
from apex_native.errors import ApexError, OutputError
from apex_native.gguf import GgufFile
from apex_native.gguf_encode import encode_entry, encode_header
from apex_native.gguf_layout import (
    FileLayout,
    layout_shards,
    shard_file_name,
    shard_metadata,
    split_tensors,
)
from apex_native.plan import Plan, PlannedTensor
from apex_native.weights import WeightSource

__all__ = [
    "OutputShard",
    "Split",
    "journal_path",
    "model_pairs",
    "plan_outputs",
    "require_disk_space",
    "require_fresh",
    "require_unused",
    "resume_settings",
    "verify_types",
]

PARTIAL_SUFFIX = ".partial"
JOURNAL_SUFFIX = ".journal"


@dataclass(slots=True)
class OutputShard:
    """One output file: which of the plan's tensors, where its bytes lie, and its open partial."""

    path: Path
    tensors: Sequence[PlannedTensor]
    layout: FileLayout
    split_pairs: list[bytes]
    carries_metadata: bool
    header: bytes | None = None
    """Written as it is; None: made from the plan."""
    fd: int = -1
    written_header: bytes = b""

    @property
    def partial(self) -> Path:
        """Where the bytes are until the file is whole."""
        return self.path.with_name(self.path.name + PARTIAL_SUFFIX)

    def open(self, *, resume: bool) -> None:
        """Create the partial file at its full size (or open the one to go on with).

        Raises OutputError where another run is at it, by whatever process.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if resume else os.O_CREAT)
        self.fd = os.open(self.partial, flags, 0o644)
        if not _locked(self.fd, self.partial):
            self.close()
            raise in_use(self.partial)
        if not resume:
            os.ftruncate(self.fd, 0)
        size = self.layout.total_bytes
        try:
            # Reserves the space, so that a full disk is found now and not after an hour.
            os.posix_fallocate(self.fd, 0, size)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
                raise
            os.ftruncate(self.fd, size)  # a file system that cannot reserve

    def write_header(self, model_pairs: Sequence[bytes]) -> None:
        """Write metadata and tensor table: last, so that a partial file is never a loadable one."""
        header = self.header
        if header is None:
            pairs = [*(model_pairs if self.carries_metadata else ()), *self.split_pairs]
            types = [tensor.type for tensor in self.tensors]
            header = encode_header(pairs, self.tensors, types, self.layout)
        self.written_header = header
        written = 0
        while written < len(header):
            written += os.pwrite(self.fd, header[written:], written)

    def publish(self) -> None:
        """fsync, then rename over the final name, then fsync the folder."""
        os.fsync(self.fd)
        self.partial.replace(self.path)
        self.close()  # and with it the lock: nobody finds the partial file unlocked
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close the partial file and leave it on disk."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self) -> None:
        """Delete the partial file where it is this run's, and close it."""
        if self.fd >= 0:
            self.partial.unlink(missing_ok=True)
        self.close()


def _locked(fd: int, path: Path) -> bool:
    """Lock an open file, and say whether it is ours and still the one of that name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:  # renamed by the run that had it
        return False


def in_use(partial: Path) -> OutputError:
    """What to say of a file that another run is writing."""
    return OutputError(
        f"{partial} is being written by another run; wait for its end, or choose another name"
    )


def require_unused(shards: Sequence[OutputShard]) -> None:
    """Raise OutputError where a partial file belongs to a run that is still at work."""
    for shard in shards:
        with contextlib.suppress(FileNotFoundError), shard.partial.open("rb") as file:
            if not _locked(file.fileno(), shard.partial):
                raise in_use(shard.partial)


@dataclass(frozen=True, slots=True)
class Split:
    """How the output is cut: by size (bytes of tensor data), or where the source is; or not.

    header: all bytes before the data of the one file, for a copy that keeps another writer's.
    """

    max_size: int | None = None
    keep: bool = False
    header: bytes | None = None


def plan_outputs(plan: Plan, output: Path, split: Split, source: WeightSource) -> list[OutputShard]:
    """One shard, or as many as asked for, named as llama.cpp names them. Raises OutputError."""
    if split.header is not None:
        layout = replace(plan.layout, header_bytes=len(split.header))
        return [OutputShard(output, plan.tensors, layout, [], True, split.header)]
    if split.keep:
        if split.max_size is not None:
            raise OutputError("`keep_split` and `split_max_size` are two ways to cut; choose one")
        return _split_outputs(plan, output, _shards_of(source))
    if split.max_size is not None:
        shards = split_tensors(plan.tensors, max_bytes=split.max_size)
        if len(shards) > 1:
            return _split_outputs(plan, output, shards)
    return [OutputShard(output, plan.tensors, plan.layout, [], carries_metadata=True)]


def resume_settings(
    fingerprint: str, plan: Plan, hessian: str | None, shards: Sequence[OutputShard]
) -> dict[str, Any]:
    """What must be equal for a run to go on with another's partial files."""
    return {
        "source": fingerprint,
        "types": plan.rules_sha256,
        "imatrix": plan.imatrix_sha256,
        "imatrix_prior": plan.imatrix_prior,
        "hessian": hessian,
        "total_bytes": plan.total_bytes,
        "shards": [len(shard.tensors) for shard in shards],
        "version": core.build_info()["version"],
        "llama_cpp_commit": core.build_info()["llama_cpp_commit"],
    }


def _shards_of(source: WeightSource) -> list[range]:
    """The source's shards as tensor indices; tensors lie in the order of their shards."""
    counts = Counter(tensor.shard for tensor in source.facts.tensors)
    if len(source.shard_paths) < 2 or len(counts) < 2:
        raise OutputError("the source is one file, there is no split to keep; leave the option out")
    ends = list(accumulate(counts[shard] for shard in sorted(counts)))
    return [range(start, end) for start, end in pairwise([0, *ends])]


def _split_outputs(plan: Plan, output: Path, shards: Sequence[range]) -> list[OutputShard]:
    prefix = output.name.removesuffix(".gguf")
    layouts = layout_shards(plan.tensors, shards, plan.kv_bytes)
    result = []
    for i, (members, layout) in enumerate(zip(shards, layouts, strict=True)):
        entries = shard_metadata(i, len(shards), len(plan.tensors))
        result.append(
            OutputShard(
                path=output.with_name(shard_file_name(prefix, i, len(shards))),
                tensors=[plan.tensors[j] for j in members],
                layout=layout,
                split_pairs=[encode_entry(entry) for entry in entries],
                carries_metadata=i == 0,
            )
        )
    return result


def journal_path(output: Path) -> Path:
    """The journal of the run that writes output."""
    return output.with_name(output.name + JOURNAL_SUFFIX)


def require_fresh(shards: Sequence[OutputShard], sources: Sequence[Path], *, force: bool) -> None:
    """Raise OutputError where an output is an input (even by another name) or exists already."""
    for shard in shards:
        if not shard.path.parent.is_dir():
            raise OutputError(f"{shard.path.parent}: no such folder; create it first")
        for source in sources:
            with contextlib.suppress(FileNotFoundError):
                if shard.path.samefile(source):
                    raise OutputError(
                        f"{shard.path} is the input itself; choose another name for the output"
                    )
        require_file(shard.path)
        if shard.path.exists() and not force:
            raise OutputError(f"{shard.path} exists; choose another name or pass `force=True`")


def require_disk_space(shards: Sequence[OutputShard], *, reserved: int = 0) -> None:
    """Raise OutputError unless the folder has room for what is still to be written."""
    folder = shards[0].path.parent
    needed = sum(shard.layout.total_bytes for shard in shards) - reserved
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free:,} bytes free, the output needs {needed:,}; "
            "free some space or write to another disk"
        )


def model_pairs(source: WeightSource, plan: Plan) -> list[bytes]:
    """Key-value pairs of the output: the source's that are kept, then the plan's."""
    replaced = {entry.key for entry in plan.metadata} | set(plan.metadata_removed)
    return [
        *(source.encoded_pair(key) for key in source.facts.kv_sizes if key not in replaced),
        *(encode_entry(entry) for entry in plan.metadata),
    ]


def verify_types(shard: OutputShard) -> None:
    """Raise ApexError where the written file's tensors are not those of the plan."""
    with GgufFile(shard.partial, with_siblings=False) as written:
        found = {tensor.name: tensor.type for tensor in written.tensors}
    if found != {tensor.name: tensor.type for tensor in shard.tensors}:
        raise ApexError(f"{shard.partial}: types in the written file differ from the plan")
