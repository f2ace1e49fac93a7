"""A candidate that no file holds: a plan carried out on a source's weights, in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.engine import Model, Placement
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import GgufFile, open_gguf
from apex_native.plan import Plan
from apex_native.quantization import HessianSource, made_where_there_is_room, quantize_model

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["PlannedModel"]

_SHARED_MEMORY = Path("/dev/shm")
_OPEN_FILES = Path("/proc/self/fd")


class PlannedModel:
    """What `quantize` would write with a plan, as a model under test and without leaving a file.

        apex.evaluate("bf16.gguf", [PlannedModel("bf16.gguf", plan) for plan in plans], "wiki.txt")

    The weights are quantized when they are first needed, into shared memory (or the temporary
    folder, where that has no room), under no name that could be left behind; `close`, or the end of
    the last reference to the object, frees them. ``source`` is the 16-bit file the plan was made
    for. Errors are those of `quantize_model`, when the weights are needed.
    """

    def __init__(
        self,
        source: GgufFile | str | os.PathLike[str],
        plan: Plan,
        *,
        imatrix: Imatrix | None = None,
        hessian: HessianSource | None = None,
        name: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        """Remember what to do; nothing is quantized yet."""
        self.plan = plan
        self.name = name or plan.tier or plan.ftype or "plan"
        self._source = source
        self._imatrix = imatrix
        self._hessian = hessian
        self._n_threads = n_threads
        self._content: _Content | None = None
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"PlannedModel({self.name!r}, {self.nbytes:,} bytes, {self.bpw:.2f} bpw)"

    @property
    def path(self) -> None:
        """None: there is no file."""
        return

    @property
    def nbytes(self) -> int:
        """Bytes that the file would have."""
        return self.plan.total_bytes

    @property
    def bpw(self) -> float:
        """Stored bits a weight."""
        return self.plan.bpw

    @property
    def fingerprint(self) -> str:
        """That of the file `quantize` would write with this plan."""
        if self._fingerprint is None:
            with open_gguf(self._quantized()) as file:
                self._fingerprint = model_fingerprint(file)
        return self._fingerprint

    def open(self, placement: Placement) -> AbstractContextManager[Model]:
        """Load it, quantized before if need be."""
        return placement.load(self._quantized(placement.quantizing_device))

    def close(self) -> None:
        """Free the quantized weights; they are made again where they are needed again."""
        if self._content is not None:
            self._content.close()
            self._content = None

    def _quantized(self, device: str = "cpu") -> Path:
        if self._content is None:
            folder = _temporary_folder(self.nbytes)
            try:
                path = Path(folder.name) / "model.gguf"
                self._write(path, device)
                self._content = _Content(path, folder)
            except BaseException:
                folder.cleanup()
                raise
        return self._content.path

    def _write(self, path: Path, device: str) -> None:
        def write(where: str) -> None:
            quantize_model(
                self._source, self.plan, path, imatrix=self._imatrix, hessian=self._hessian,
                n_threads=self._n_threads, device=where, force=True,
            )  # fmt: skip

        made_where_there_is_room(write, device, "cpu")


class _Content:
    """A temporary file whose name goes at once, where the system can open files by descriptor.

    It then lives as long as the descriptor: no crash leaves it behind.
    """

    def __init__(self, path: Path, folder: tempfile.TemporaryDirectory[str]) -> None:
        """Take the file and its folder over."""
        self.path = path
        self.close: Callable[[], object] = folder.cleanup
        if _OPEN_FILES.is_dir():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            folder.cleanup()
            self.path = _OPEN_FILES / str(descriptor)
            self.close = weakref.finalize(self, os.close, descriptor)


def _temporary_folder(nbytes: int) -> tempfile.TemporaryDirectory[str]:
    """Of shared memory if it has room for that many bytes, else of the disk."""
    in_memory = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > nbytes
    return tempfile.TemporaryDirectory(prefix="apex-", dir=_SHARED_MEMORY if in_memory else None)
