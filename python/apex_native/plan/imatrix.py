"""Which tensors need, or can use, an importance matrix, and whether the given one fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from apex_native.plan.ftypes import FileType
from apex_native.plan.names import is_token_embedding
from apex_native.types import GgmlType, TensorInfo

__all__ = ["EntryDoubts", "EntryFit", "ImatrixSummary", "ImatrixUse", "entry_fit", "imatrix_use"]


@dataclass(frozen=True, slots=True)
class EntryDoubts:
    """What an entry does not tell of a tensor: slices are experts, one for a dense tensor.

    unseen: slices without information (no tokens, or sums of zero); few: slices that saw fewer
    tokens than a profile takes; silent_columns: columns of weight 0 in some slice that is seen.
    """

    n_slices: int
    n_columns: int
    unseen: tuple[int, ...] = ()
    few: tuple[int, ...] = ()
    silent_columns: int = 0


@dataclass(frozen=True, slots=True)
class ImatrixSummary:
    """An importance matrix as planning sees it: which entries it has, not their values.

    entries maps a tensor name to (n_per_row, n_slices), the shape of its vectors; file is the
    name recorded in the output; sha256 is that of the imatrix file; prior says what was done to
    the values of experts that saw few tokens, None: nothing.

    same_input gives tensors without an entry the name of one that describes the same input;
    unusable the entries that look as if they did and do not. doubts holds what entries do not
    tell; fills_gaps says whether a prior speaks in their place.
    """

    entries: Mapping[str, tuple[int, int]]
    sha256: str
    file: str = ""
    chunk_count: int = 0
    datasets: tuple[str, ...] = field(default=())
    prior: str | None = None
    same_input: Mapping[str, str] = field(default_factory=dict)
    unusable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    doubts: Mapping[str, EntryDoubts] = field(default_factory=dict)
    fills_gaps: bool = False

    def source(self, tensor: str) -> str:
        """The entry that serves a tensor: its own, or one of the same input."""
        return tensor if tensor in self.entries else self.same_input.get(tensor, tensor)


class ImatrixUse(StrEnum):
    """What a tensor's quantizer does with an importance matrix."""

    REQUIRED = "required"
    """llama.cpp refuses to quantize without one, or its kernel aborts."""
    USED = "used"
    """Weights the error if there is one."""
    UNUSED = "unused"
    """Not quantized, or the format's quantizer ignores it."""


class EntryFit(StrEnum):
    """Whether the given importance matrix has this tensor's entry."""

    NOT_GIVEN = "not_given"
    FITS = "fits"
    MISSING = "missing"
    WRONG_SIZE = "wrong_size"


KERNEL_REQUIRES = frozenset({GgmlType.IQ2_XXS, GgmlType.IQ2_XS, GgmlType.IQ1_S})
"""``ggml_quantize_requires_imatrix``: without data the quantizer aborts the process."""

_LLAMA_REQUIRES = KERNEL_REQUIRES | {GgmlType.IQ3_XXS, GgmlType.IQ2_S, GgmlType.IQ1_M}
"""``tensor_requires_imatrix``: llama.cpp refuses these rather than write garbage."""

_IGNORES = frozenset(
    {GgmlType.Q8_0, GgmlType.MXFP4, GgmlType.NVFP4, GgmlType.TQ1_0, GgmlType.TQ2_0}
    | {GgmlType.Q1_0, GgmlType.Q2_0}
)
"""Formats whose quantize_* function in ggml-quants.c computes the same with and without it."""


def imatrix_use(
    name: str, source: GgmlType, type: GgmlType, file_type: FileType | None
) -> ImatrixUse:
    """What quantizing tensor ``name`` from ``source`` to ``type`` does with an imatrix.

    As ``tensor_requires_imatrix``, plus the kernels' own requirement, which upstream does not
    check for token embeddings and the output tensor (the process aborts there).
    """
    if source is type or not type.is_quantized or type in _IGNORES:
        return ImatrixUse.UNUSED
    if type in KERNEL_REQUIRES:
        return ImatrixUse.REQUIRED
    if is_token_embedding(name) or name == "output.weight":
        return ImatrixUse.USED
    is_bare_q2_k = type is GgmlType.Q2_K and file_type is FileType.Q2_K_S
    if type in _LLAMA_REQUIRES or is_bare_q2_k:
        return ImatrixUse.REQUIRED
    return ImatrixUse.USED


def entry_fit(imatrix: ImatrixSummary | None, tensor: TensorInfo) -> EntryFit:
    """Whether the imatrix holds n_per_row values for each slice of the tensor.

    An entry that knows its slices must have the tensor's; one that does not (legacy files store
    all experts in a row) must have as many values. llama-quantize compares the number only.
    """
    if imatrix is None:
        return EntryFit.NOT_GIVEN
    entry = imatrix.entries.get(imatrix.source(tensor.name))
    if entry is None:
        return EntryFit.MISSING
    expected = (tensor.n_per_row, tensor.n_expert_slices)
    flat = (tensor.n_per_row * tensor.n_expert_slices, 1)
    return EntryFit.FITS if entry in (expected, flat) else EntryFit.WRONG_SIZE
