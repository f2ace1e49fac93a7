"""A checkpoint as a source of weights: what it would be as GGUF, and its rows on demand."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apex_native._native import core
from apex_native.closable import Closable
from apex_native.conversion.folder import check_folder
from apex_native.conversion.options import ConversionOptions, Part
from apex_native.conversion.record import RecordedTensor, SpilledArray, record
from apex_native.conversion.upstream import upstream
from apex_native.conversion.weight_files import LocalWeights, WeightFiles
from apex_native.errors import CheckpointError
from apex_native.gguf import GgufFile, WeightStatistics, statistics_of
from apex_native.printable import counted
from apex_native.types import GgmlType, GgufFacts
from apex_native.weights import RowRange

__all__ = ["CheckpointSource"]


class CheckpointSource(Closable):
    """A `WeightSource` over a folder of safetensors; use as a context manager or call close().

    Metadata and tensor table are those of the file that `convert` writes. Nothing is converted
    before a worker asks for it: rows that only move are read from the checkpoint's files, others
    are computed expert by expert.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: ConversionOptions,
        files: WeightFiles | None = None,
    ) -> None:
        """Read headers, config and tokenizer; CheckpointError for whatever is wrong with them.

        files: where the weights are, if not in the folder.
        """
        self.path = Path(path)
        self.options = options
        self._files: WeightFiles = files or LocalWeights()
        self._shards = check_folder(self.path, allow_pickle=options.allow_pickle)
        recorded = record(self.path, options, self._files.before_read)
        self.header = recorded.header
        self._recorded = recorded
        self._tensors = {tensor.name: tensor for tensor in recorded.tensors}
        self._head = _opened_header(recorded.header)
        kept = recorded.int4_names if options.int4_as_q4_0 else frozenset()
        self.facts: GgufFacts = replace(self._head.facts, has_data=True, as_stored=kept)

    def __repr__(self) -> str:
        return f"CheckpointSource({str(self.path)!r}, {len(self.facts.tensors)} tensors)"

    def close(self) -> None:
        """Let go of the checkpoint; tensors that workers hold of a folder stay readable."""
        self._tensors = {}
        self._files.close()

    def interrupt(self) -> None:
        """Let workers that wait for a download go: the work was given up."""
        self._files.interrupt()

    @property
    def weights_type(self) -> GgmlType:
        """The type that most bytes have."""
        sizes: Counter[GgmlType] = Counter()
        for tensor in self.facts.tensors:
            sizes[tensor.type] += tensor.nbytes
        return sizes.most_common(1)[0][0]

    @property
    def int4_names(self) -> frozenset[str]:
        """Tensors that were rounded to 4-bit integers in groups: Q4_0 holds them exactly."""
        return self._recorded.int4_names

    @property
    def notes(self) -> tuple[str, ...]:
        """What else the checkpoint has in it, and how to get it: a sentence each."""
        found = []
        part = self.options.part
        if self._recorded.has_projector and part is not Part.MMPROJ:
            found.append(
                "a projector for images or sound: `convert` writes it with `part='mmproj'`"
            )
        n_mtp = self.facts.metadata.get(f"{self.facts.architecture}.nextn_predict_layers", 0)
        if isinstance(n_mtp, int) and n_mtp and part is Part.MODEL:
            found.append(
                f"{counted(n_mtp, 'layer')} for multi-token prediction, with the "
                "model: `part='model-without-mtp'` leaves them out, `part='mtp'` takes them alone"
            )
        if self.int4_names and not self.options.int4_as_q4_0:
            found.append(
                f"{len(self.int4_names)} tensors of 4-bit integers: Q4_0 holds them exactly, with "
                "`int4_as_q4_0=True`"
            )
        return tuple(found)

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The safetensors (or pickled) files."""
        if self._shards:
            return tuple(shard.path for shard in self._shards)
        return tuple(sorted(self.path.glob("pytorch_model*.bin")))

    @property
    def missing_data(self) -> str | None:
        """Which file is not whole, as a sentence."""
        missing = (shard.missing for shard in self._shards)
        return next((said for said in missing if said), self._files.missing)

    def encoded_pair(self, key: str) -> bytes:
        """A key-value pair as the converted file would store it; KeyError if absent."""
        return self._head.encoded_pair(key)

    def fingerprint(self) -> str:
        """sha256 over what the header would be and each file's size and modification time.

        Of a checkpoint of the hub, over the files' hashes.
        """
        digest = hashlib.sha256(self.header)
        digest.update(self._files.identity(self.shard_paths).encode())
        return digest.hexdigest()

    def stored_tensor(self, name: str) -> Any:
        """A tensor's rows for native readers; KeyError, GgufError where a file is cut off."""
        tensor = self._tensors[name]
        info = self._head.tensors[self._head.index(name)]
        ranges = _ranges_of(tensor)
        if ranges is not None:
            files = LocalWeights() if isinstance(tensor.data, SpilledArray) else self._files
            return files.tensor(info, ranges)
        from apex_native.conversion.computed import computed_rows
        from apex_native.conversion.lazy import files_of

        row_bytes = info.type.row_bytes(info.n_per_row)
        paths = frozenset(files_of(tensor.data))
        files = self._files
        blocks = computed_rows(tensor.data, info.shape, row_bytes, lambda: files.reading(paths))
        n_rows = info.nbytes // row_bytes
        return core.StoredTensor(name, info.type.id, list(info.shape), [(blocks, 0, n_rows, None)])

    def statistics(
        self, names: Sequence[str], *, n_threads: int | None = None
    ) -> list[WeightStatistics]:
        """Weight statistics of each named tensor, streamed on all cores."""
        return statistics_of(self, names, n_threads=n_threads)

    def is_computed(self, name: str) -> bool:
        """Are the tensor's values computed, and not only read? KeyError."""
        return _ranges_of(self._tensors[name]) is None


def _ranges_of(tensor: RecordedTensor) -> list[RowRange] | None:
    data = tensor.data
    if isinstance(data, upstream().gguf.LazyChunkedTensor):
        raise CheckpointError(
            f"{tensor.name}: upstream writes this tensor in pieces, which is not supported here; "
            "convert the checkpoint with upstream's script"
        )
    if isinstance(data, SpilledArray):
        n_rows = tensor.nbytes // tensor.type.row_bytes(tensor.shape[-1])
        return [RowRange(data.path, data.offset, n_rows)]
    from apex_native.conversion.row_maps import row_ranges

    return row_ranges(data, tensor.type)


def _opened_header(header: bytes) -> GgufFile:
    """The header as a file without data: planning reads it as it reads any other."""
    with tempfile.NamedTemporaryFile(prefix="apex-header-", suffix=".gguf") as file:
        file.write(header)
        file.flush()
        return GgufFile(file.name, with_siblings=False)
