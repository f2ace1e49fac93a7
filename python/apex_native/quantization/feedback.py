"""Quantizing with second moments: which tensors, under what, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from apex_native._native import core
from apex_native.errors import ImatrixError
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.plan import Plan, PlannedTensor
from apex_native.types import GgmlType
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native._core import FeedbackDevices, RowsConverter
    from apex_native.imatrix import Hessian

__all__ = [
    "METHOD",
    "FeedbackPlaces",
    "HessianSource",
    "OutputErrors",
    "feedback_for",
    "feedback_groups",
    "has_feedback",
    "planned_digest",
    "with_hessian_metadata",
]

METHOD = "error-feedback-6"
DIGEST_KEY = "apex.hessian.digest"


class HessianSource(Protocol):
    """Where second moments come from: a `Hessian`, or a `LayeredHessian` that collects them."""

    @property
    def digest(self) -> str:
        """sha256 of what decides the values."""

    @property
    def n_tokens(self) -> int:
        """Tokens of the calibration."""

    def windows(
        self, weights: Collection[str]
    ) -> Generator[tuple[tuple[str, ...], Hessian], None, None]:
        """Groups of these weights, each with the moments of their inputs; closed in the end."""


@dataclass(frozen=True, slots=True)
class OutputErrors:
    """Squared errors of a tensor's outputs, beside those of ggml's bytes.

    error, ggml_error, signal: sums of (w - q) H (w - q)^T and w H w^T over rows, with H summed over
    the calibration's tokens. held_out_*: of sampled rows, quantized under one half of the tokens
    and judged by the other. n_kept of n_slices (experts) keep ggml's bytes, because held-out tokens
    did not speak for others.
    """

    error: float
    ggml_error: float
    signal: float
    held_out_error: float
    held_out_ggml_error: float
    n_slices: int
    n_kept: int

    @property
    def relative_error(self) -> float:
        """sqrt(error / signal); 0 without a signal."""
        return math.sqrt(self.error / self.signal) if self.signal > 0 else 0.0

    @property
    def ratio(self) -> float:
        """Squared error as a share of ggml's; 1 where both are 0."""
        return self.error / self.ggml_error if self.ggml_error > 0 else 1.0

    @property
    def held_out_ratio(self) -> float | None:
        """The same on held-out tokens; None where there were too few to hold any out."""
        if self.held_out_ggml_error <= 0:
            return None
        return self.held_out_error / self.held_out_ggml_error

    @classmethod
    def total(cls, parts: Iterable[OutputErrors]) -> OutputErrors:
        """Tensors together."""
        rows = list(parts)
        return cls(
            error=math.fsum(row.error for row in rows),
            ggml_error=math.fsum(row.ggml_error for row in rows),
            signal=math.fsum(row.signal for row in rows),
            held_out_error=math.fsum(row.held_out_error for row in rows),
            held_out_ggml_error=math.fsum(row.held_out_ggml_error for row in rows),
            n_slices=sum(row.n_slices for row in rows),
            n_kept=sum(row.n_kept for row in rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """The manifest's form."""
        return {
            "relative_error": self.relative_error,
            "ratio_to_ggml": self.ratio,
            "held_out_ratio_to_ggml": self.held_out_ratio,
            "slices": self.n_slices,
            "slices_kept_as_ggml": self.n_kept,
        }


def has_feedback(tensor: PlannedTensor) -> bool:
    """Whether the tensor is quantized anew, into a type that error feedback has a format for."""
    return tensor.type is not tensor.source_type and bool(core.has_feedback(tensor.type.id))


def feedback_for(
    source: WeightSource,
    name: str,
    type: GgmlType,
    imatrix_values: Any,
    hessian: Hessian | None,
    options: Mapping[str, Any] | None = None,
    *,
    devices: FeedbackDevices | None = None,
    n_threads: int = 1,
    beside: RowsConverter | None = None,
) -> RowsConverter | None:
    """What quantizes a tensor into another type with error feedback; None where it cannot.

    devices: GPUs that do it, where they have the type; n_threads prepare the layer's mean. beside:
    what this gave for another tensor of the same input, type and matrices: bases are made once.
    Raises ImatrixError where the moments are of another model.
    """
    moment = None if hessian is None else hessian.moment_of(name)
    if moment is None or not core.has_feedback(type.id):
        return None
    chosen = dict(options or {})
    if moment.is_exact:
        chosen["trusts"] = [core.Trust(shrink=0.0, layer_tokens=0.0)]
    tensor = source.stored_tensor(name)
    if not core.can_reorder(tensor):
        moment = moment.ungrouped()
    moments: dict[str, Any] = {
        "imatrix": imatrix_values,
        "total": moment.total,
        "part": moment.part,
        "counts": moment.counts,
        "part_counts": moment.part_counts,
        "options": core.FeedbackOptions(**chosen),
        "devices": devices,
    }
    try:
        if moment.groups is not None:
            return core.grouped_feedback(tensor, type.id, groups=moment.groups, **moments)
        return core.feedback(tensor, type.id, **moments, n_threads=n_threads, beside=beside)
    except ValueError as error:
        raise ImatrixError(f"the second moments do not go with this model: {error}") from error


class FeedbackPlaces:
    """GPUs that fit tensors, kept from group to group: their memory takes 50 ms a place to get."""

    def __init__(self, numbers: Sequence[int], n_places: int) -> None:
        """Nothing is taken yet; n_places: slices at a time on each GPU, at most."""
        self._numbers = list(numbers)
        self._n_places = n_places
        self._width = 0
        self._devices: FeedbackDevices | None = None

    def for_tensors(self, tensors: Iterable[PlannedTensor]) -> FeedbackDevices | None:
        """For those of these tensors that GPUs can do; None where there is none.

        Raises DeviceError where their memory does not suffice.
        """
        widths = [
            tensor.shape[-1]
            for tensor in tensors
            if has_feedback(tensor) and core.device_has_feedback(tensor.type.id, tensor.shape[-1])
        ]
        if not widths or not self._numbers:
            return None
        if self._devices is None or max(widths) > self._width:
            self._devices = None  # before others are made
            self._width = max(widths)
            self._devices = core.FeedbackDevices(
                self._numbers, n_places=self._n_places, n_per_row=self._width
            )
        return self._devices


def feedback_groups(
    source: WeightSource, hessian: HessianSource | None, tensors: Iterable[PlannedTensor]
) -> Generator[tuple[Collection[str], Hessian | None], None, None]:
    """Names of tensors that are quantized together: as second moments come, then the others.

    Embeddings that no moment was collected for have a metric of their own (`embedding_hessian`).
    """
    rest = {tensor.name: tensor for tensor in tensors}
    if hessian is not None:
        wanted = [name for name, tensor in rest.items() if has_feedback(tensor)]
        if wanted:
            with closing(hessian.windows(wanted)) as windows:
                for names, moments in windows:
                    group = [name for name in names if name in rest and moments.moment_of(name)]
                    for name in group:
                        del rest[name]
                    yield group, moments
        yield from _embedding_group(source, rest)
    yield list(rest), None


def _embedding_group(
    source: WeightSource, rest: dict[str, PlannedTensor]
) -> Iterator[tuple[Collection[str], Hessian]]:
    from apex_native.quantization.embedding import EMBEDDING, embedding_hessian

    if EMBEDDING in rest and has_feedback(rest[EMBEDDING]):
        metric = embedding_hessian(source)
        if metric is not None:
            del rest[EMBEDDING]
            yield [EMBEDDING], metric


def planned_digest(plan: Plan) -> str | None:
    """Of the second moments a plan was made for, None for any other plan."""
    digests = [str(entry.value) for entry in plan.metadata if entry.key == DIGEST_KEY]
    return digests[0] if digests else None


def with_hessian_metadata(plan: Plan, digest: str, n_tokens: int) -> Plan:
    """The plan, whose file also says what its bytes were fitted to; one that says so stays.

    Raises ImatrixError where it was made for other second moments.
    """
    planned = planned_digest(plan)
    if planned == digest:
        return plan
    if planned is not None:
        raise ImatrixError(
            f"the plan was made for the second moments {planned[:12]}, found {digest[:12]}; give "
            "the file it was made with"
        )
    string = GgufValueType.STRING
    entries = (
        MetadataEntry("apex.hessian", string, METHOD),
        MetadataEntry(DIGEST_KEY, string, digest),
        MetadataEntry("apex.hessian.tokens", GgufValueType.UINT64, n_tokens),
    )
    return replace(
        plan,
        metadata=plan.metadata + entries,
        kv_bytes=plan.kv_bytes + sum(entry.nbytes for entry in entries),
    )
