"""llama.cpp's file types (``llama_ftype``): number, default tensor type, names users may give."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from enum import Enum

from apex_native.errors import PlanError
from apex_native.types import GgmlType, GgufFacts, MetadataValue, TensorInfo

__all__ = ["FileType", "copied_file_type", "file_type_name", "predominant_file_type"]


class FileType(Enum):
    """A base mix: (number in ``general.file_type``, default type of its tensors).

    Numbers are ``llama.h``'s, default types ``llama_ftype_get_default_type``'s; COPY is
    llama-quantize's pseudo type that keeps every tensor (and the source's number).
    """

    F32 = (0, GgmlType.F32)
    F16 = (1, GgmlType.F16)
    Q4_0 = (2, GgmlType.Q4_0)
    Q4_1 = (3, GgmlType.Q4_1)
    Q8_0 = (7, GgmlType.Q8_0)
    Q5_0 = (8, GgmlType.Q5_0)
    Q5_1 = (9, GgmlType.Q5_1)
    Q2_K = (10, GgmlType.Q2_K)
    Q3_K_S = (11, GgmlType.Q3_K)
    Q3_K_M = (12, GgmlType.Q3_K)
    Q3_K_L = (13, GgmlType.Q3_K)
    Q4_K_S = (14, GgmlType.Q4_K)
    Q4_K_M = (15, GgmlType.Q4_K)
    Q5_K_S = (16, GgmlType.Q5_K)
    Q5_K_M = (17, GgmlType.Q5_K)
    Q6_K = (18, GgmlType.Q6_K)
    IQ2_XXS = (19, GgmlType.IQ2_XXS)
    IQ2_XS = (20, GgmlType.IQ2_XS)
    Q2_K_S = (21, GgmlType.Q2_K)
    IQ3_XS = (22, GgmlType.IQ3_S)
    IQ3_XXS = (23, GgmlType.IQ3_XXS)
    IQ1_S = (24, GgmlType.IQ1_S)
    IQ4_NL = (25, GgmlType.IQ4_NL)
    IQ3_S = (26, GgmlType.IQ3_S)
    IQ3_M = (27, GgmlType.IQ3_S)
    IQ2_S = (28, GgmlType.IQ2_XS)
    IQ2_M = (29, GgmlType.IQ2_S)
    IQ4_XS = (30, GgmlType.IQ4_XS)
    IQ1_M = (31, GgmlType.IQ1_M)
    BF16 = (32, GgmlType.BF16)
    TQ1_0 = (36, GgmlType.TQ1_0)
    TQ2_0 = (37, GgmlType.TQ2_0)
    MXFP4_MOE = (38, GgmlType.MXFP4)
    Q1_0 = (40, GgmlType.Q1_0)
    Q2_0 = (41, GgmlType.Q2_0)
    COPY = (-1, GgmlType.F32)

    def __init__(self, number: int, default_type: GgmlType) -> None:
        self.number = number
        self.default_type = default_type

    def __str__(self) -> str:
        return self.name

    @property
    def is_quantized(self) -> bool:
        """True if tensors are quantized by default, so that the mix and the fallback apply."""
        return self.default_type.is_quantized

    @classmethod
    def parse(cls, name: str) -> FileType:
        """The file type of that name (any case), alias or number; PlanError with near names."""
        wanted = name.strip().upper()
        wanted = _ALIASES.get(wanted, wanted)
        found = cls.__members__.get(wanted) or _BY_NUMBER.get(wanted)
        if found is not None:
            return found
        near = difflib.get_close_matches(wanted, [*cls.__members__, *_ALIASES], n=3, cutoff=0.7)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise PlanError(f"unknown file type '{name}'{hint}")


_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""llama-quantize's aliases (QUANT_OPTIONS of tools/quantize/quantize.cpp)."""

_BY_NUMBER = {str(t.number): t for t in FileType if t is not FileType.COPY}

_GUESS = {
    GgmlType.Q3_K: FileType.Q3_K_M,
    GgmlType.Q4_K: FileType.Q4_K_M,
    GgmlType.Q5_K: FileType.Q5_K_M,
    GgmlType.IQ2_S: FileType.IQ2_S,
}
"""The file type llama.cpp's loader guesses where the first with that default type is another."""

_NOT_GUESSED = frozenset({GgmlType.MXFP4, GgmlType.IQ1_M})
"""Types the loader's switch has no row for; it calls such files F32."""

_NVFP4_FILE_TYPE = 39
"""LLAMA_FTYPE_MOSTLY_NVFP4: files of it exist, llama-quantize cannot make them."""

_GUESSED = 1024
"""LLAMA_FTYPE_GUESSED: the bit that marks a number the source file did not state."""


def _file_type_number(type: GgmlType) -> int:
    """The number of a file made mostly of this type."""
    if type is GgmlType.NVFP4:
        return _NVFP4_FILE_TYPE
    if type in _GUESS:
        return _GUESS[type].number
    named = (t for t in FileType if t is not FileType.COPY)
    return next((t.number for t in named if t.default_type is type), FileType.F32.number)


def file_type_name(number: int) -> str:
    """The name of a number that a plan states: Q4_K_M for 15."""
    if number == _NVFP4_FILE_TYPE:
        return "NVFP4"
    return _BY_NUMBER[str(number & ~_GUESSED)].name


def predominant_file_type(bytes_by_type: Iterable[tuple[GgmlType, int]]) -> int:
    """``general.file_type`` for a file that no mix of llama.cpp made: the type of most bytes.

    Takes (type, number of bytes) pairs. llama.cpp counts tensors instead, which makes every
    model with many norms an F32 file.
    """
    totals: Counter[GgmlType] = Counter()
    for tensor_type, n_bytes in bytes_by_type:
        totals[tensor_type] += n_bytes
    return _file_type_number(totals.most_common(1)[0][0]) if totals else FileType.F32.number


def copied_file_type(facts: GgufFacts, in_order: Iterable[TensorInfo]) -> int:
    """``general.file_type`` of a COPY: the source's number, or llama.cpp's guess with its mark.

    in_order: the tensors in ``weights_map`` order, which breaks ties between counts.
    """
    stated: MetadataValue | None = facts.metadata.get("general.file_type")
    if isinstance(stated, int) and not isinstance(stated, bool):
        return stated
    counts: Counter[GgmlType] = Counter()
    leader = GgmlType.F32
    for tensor in in_order:
        counts[tensor.type] += 1
        if counts[tensor.type] > counts[leader]:
            leader = tensor.type
    number = FileType.F32.number if leader in _NOT_GUESSED else _file_type_number(leader)
    return number | _GUESSED
