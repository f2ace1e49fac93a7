"""Values that take the place of a reference's weights, as a file would hold them; their errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from apex_native._native import core
from apex_native.gguf import GgufFile
from apex_native.imatrix import Hessian, Imatrix, Importance
from apex_native.interrupt import run_interruptible
from apex_native.plan.imatrix import EntryFit, ImatrixUse, entry_fit, imatrix_use
from apex_native.quantization import METHOD, OutputErrors, feedback_for, made_where_there_is_room
from apex_native.quantization.embedding import embedding_hessian
from apex_native.types import GgmlType, TensorInfo

if TYPE_CHECKING:
    from apex_native._core import RowsConverter, StopFlag

__all__ = ["BATCH_BYTES", "TensorValues", "Types"]


VALUE_BYTES = 2 << 30
"""Quantized values kept in memory at most, beside those of the batch that is measured."""

BATCH_BYTES = 3 << 29
"""Values of the candidates that are measured in one pass."""

SAMPLE_WEIGHTS = 1 << 24
"""Errors of larger tensors are those of every n-th row: rows enough for a per cent."""

SAMPLE_ROWS = 32
"""Of each expert at least."""

FITTED_TOGETHER = 16
"""Tensors that are fitted to second moments in one go: each holds its moments meanwhile."""

Types = Mapping[str, GgmlType]
_Request: TypeAlias = "tuple[int, int, Any, None, RowsConverter | None]"


class TensorValues:
    """Tensors of a file in other types, made when they are asked for and kept while there is room.

    seconds: what making them took.
    """

    def __init__(
        self,
        source: GgufFile,
        imatrix: Imatrix | None,
        hessian: Hessian | None,
        *,
        n_threads: int,
        stop: StopFlag,
        devices: Sequence[int] = (),
    ) -> None:
        """Nothing is made yet. hessian: values are fitted to it. devices: GPUs that quantize."""
        self.source, self.imatrix = source, imatrix
        self.hessian = None if hessian is None else embedding_hessian(source, hessian)
        self.seconds = 0.0
        self._n_threads, self._stop = n_threads, stop
        self._devices = list(devices)
        self._importance = None if imatrix is None else Importance(imatrix, source.facts)
        self._summary = None if self._importance is None else self._importance.summary()
        self._values: dict[tuple[str, GgmlType], Any] = {}
        self._value_bytes = 0
        self._errors: dict[tuple[str, GgmlType], float] = {}
        self._shares: Callable[[str, GgmlType], float] | None = None

    @property
    def matrix(self) -> str:
        """What identifies the importance matrix in a probe."""
        return f"{self._summary.sha256} {self._summary.prior or 'none'}" if self._summary else ""

    @property
    def method(self) -> str:
        """How weights are quantized, in a probe."""
        return "stock" if self.hessian is None else f"{METHOD} {self.hessian.digest}"

    def clear(self) -> None:
        """Free what was kept."""
        self._values.clear()

    def is_own(self, name: str, type: GgmlType) -> bool:
        """Is it the type the source holds?"""
        return self.info(name).type is type

    def info(self, name: str) -> TensorInfo:
        """The source's tensor."""
        return self.source.tensors[self.source.index(name)]

    def changed(self, types: Types) -> dict[str, GgmlType]:
        """Those that are not the source's own."""
        return {name: type for name, type in types.items() if not self.is_own(name, type)}

    def of(self, types: Types) -> list[Any]:
        """What takes the place of these tensors."""
        keys = list(self.changed(types).items())
        missing = [key for key in keys if key not in self._values]
        made = dict(zip(missing, self._make(missing), strict=True))
        return [made[key] if key in made else self._values[key] for key in keys]

    def weight_error(self, name: str, type: GgmlType) -> float:
        """Importance-weighted relative squared error of a tensor in a type; 0 for its own type.

        Squared output error over squared output, expected per token: columns weighted by the
        matrix's means, experts by the tokens they saw. Values that are fitted to second moments
        have what `learn_shares` says of ggml's error.
        """
        if self.is_own(name, type):
            return 0.0
        key = (name, type)
        if key not in self._errors:
            self._note_errors([key])
        share = 1.0 if self._shares is None else self._shares(name, type)
        return self._errors[key] * share

    def learn_shares(self, shares: Callable[[str, GgmlType], float]) -> None:
        """What fitting leaves of a tensor's error in a type, a share of ggml's."""
        self._shares = shares

    def prepare_errors(self, wanted: Sequence[tuple[str, GgmlType]]) -> None:
        """Errors of many tensors, a batch of bounded memory after the other; large ones sampled."""
        todo = [k for k in dict.fromkeys(wanted) if k not in self._errors and not self.is_own(*k)]
        by_step: dict[int, list[tuple[str, GgmlType]]] = {}
        for key in todo:
            by_step.setdefault(self._row_step(key[0]), []).append(key)
        for step, keys in sorted(by_step.items()):
            batch: list[tuple[str, GgmlType]] = []
            n_bytes = 0
            for name, type in keys:
                batch.append((name, type))
                n_bytes += type.tensor_bytes(self.info(name).shape) // step
                if n_bytes > BATCH_BYTES:
                    self._note_errors(batch, step)
                    batch, n_bytes = [], 0
            self._note_errors(batch, step)

    def _row_step(self, name: str) -> int:
        """Of a tensor whose errors are wanted and nothing else."""
        info = self.info(name)
        rows = info.n_elements // info.n_per_row // info.n_expert_slices
        return max(1, min(info.n_elements // SAMPLE_WEIGHTS, rows // SAMPLE_ROWS))

    def _imatrix_values(self, name: str, type: GgmlType) -> Any:
        info = self.info(name)
        used = imatrix_use(name, info.type, type, None) is not ImatrixUse.UNUSED
        fits = entry_fit(self._summary, info) is EntryFit.FITS
        if self._importance is None or not used or not fits:
            return None
        return self._importance.values(name)

    def _note_errors(self, keys: Sequence[tuple[str, GgmlType]], row_step: int = 1) -> None:
        """Quantize with ggml's bytes, for their errors; what will be measured anyway is kept."""
        made = self._quantized([self._request(*key, fitted=False) for key in keys], row_step)
        for key, value in zip(keys, made, strict=True):
            # The first estimate stays: a search that goes on from a store sees the same numbers.
            self._errors.setdefault(key, self._relative_error(key[0], value.errors))
            if row_step == 1 and not self._is_fitted(*key):
                self._keep(key, value)

    def _is_fitted(self, name: str, type: GgmlType) -> bool:
        known = self.hessian is not None and self.hessian.moment_of(name) is not None
        return known and bool(core.has_feedback(type.id))

    def _keep(self, key: tuple[str, GgmlType], value: Any) -> None:
        if key not in self._values and self._value_bytes + value.nbytes <= VALUE_BYTES:
            self._values[key] = value
            self._value_bytes += value.nbytes

    def _request(self, name: str, type: GgmlType, *, fitted: bool) -> _Request:
        """As the core takes it, with what fits it to second moments where that is asked for."""
        values = self._imatrix_values(name, type)
        hessian = self.hessian if fitted else None
        converter = feedback_for(self.source, name, type, values, hessian)
        return self.source.index(name), type.id, values, None, converter

    def _quantized(self, requests: Sequence[_Request], row_step: int = 1) -> list[Any]:
        if not requests:
            return []
        begin = time.monotonic()
        made, self._devices = made_where_there_is_room(
            lambda devices: self._quantized_on(devices, requests, row_step), self._devices, []
        )
        self.seconds += time.monotonic() - begin
        return made

    def _quantized_on(
        self, devices: Sequence[int], requests: Sequence[_Request], row_step: int
    ) -> list[Any]:
        made: list[Any] = run_interruptible(
            lambda: core.quantize_values(
                self.source.native,
                requests,
                n_threads=self._n_threads,
                row_step=row_step,
                devices=devices,
                stop=self._stop,
            ),
            self._stop.set,
        )
        return made

    def _make(self, keys: Sequence[tuple[str, GgmlType]]) -> list[Any]:
        """Values as the file will hold them; they are kept while there is room."""
        made: list[Any] = []
        n_together = len(keys) if self.hessian is None else FITTED_TOGETHER
        for begin in range(0, len(keys), max(1, n_together)):
            some = keys[begin : begin + n_together]
            made += self._quantized([self._request(*key, fitted=True) for key in some])
        for key, value in zip(keys, made, strict=True):
            self._keep(key, value)
        return made

    def output_errors(self, name: str, type: GgmlType) -> OutputErrors | None:
        """What fitting gives a tensor in a type; None where it has ggml's bytes."""
        request = self._request(name, type, fitted=True)
        converter = request[-1]
        if converter is None:
            return None
        (value,) = self._quantized([request])
        self._keep((name, type), value)
        return OutputErrors(**converter.errors())

    def _relative_error(self, name: str, errors: Any) -> float:
        entry = None if self.imatrix is None else self.imatrix.entries.get(name)
        weights = np.ones(len(errors))
        if entry is not None and len(entry.counts) == len(errors) > 1:
            weights = np.maximum(entry.counts, 1.0)
        total = float(np.sum(weights * errors[:, 1]))
        return float(np.sum(weights * errors[:, 0])) / total if total > 0 else 0.0
