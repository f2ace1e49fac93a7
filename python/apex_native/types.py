"""The values that travel between stages: frozen, typed, independent of the native core.

Shapes are numpy's (row-major): ``(rows, n_per_row)`` or ``(experts, rows, n_per_row)``.
ggml's reversed ``ne`` order exists only inside ``csrc/core``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod

__all__ = [
    "CACHE_TYPES",
    "LONGEST_CONTEXT",
    "Classification",
    "ClassifiedTensor",
    "GgmlType",
    "GgufFacts",
    "MetadataValue",
    "Role",
    "TensorInfo",
]

MetadataScalar = bool | int | float | str
MetadataValue = MetadataScalar | tuple[MetadataScalar, ...]


class GgmlType(Enum):
    """A ggml tensor type: (ggml id, weights per block, bytes per block).

    Numbers are those of ``ggml.h``/``ggml-common.h`` of the pinned llama.cpp, the last three of
    ``csrc/turbo/turbo.h``; ``tests/test_types.py`` compares each with ``ggml_get_type_traits``.
    """

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q8_1 = (9, 32, 36)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    Q8_K = (15, 256, 292)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    I8 = (24, 1, 1)
    I16 = (25, 1, 2)
    I32 = (26, 1, 4)
    I64 = (27, 1, 8)
    F64 = (28, 1, 8)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)
    NVFP4 = (40, 64, 36)
    Q1_0 = (41, 128, 18)
    Q2_0 = (42, 64, 18)
    TURBO2 = (60, 64, 18)
    TURBO3 = (61, 64, 26)
    TURBO4 = (62, 64, 34)

    def __init__(self, id: int, block_size: int, block_bytes: int) -> None:
        self.id = id
        self.block_size = block_size
        self.block_bytes = block_bytes

    def __str__(self) -> str:
        return self.name

    @property
    def is_quantized(self) -> bool:
        """True for block formats (ggml's ``is_quantized``)."""
        return self.block_size > 1

    @property
    def is_float(self) -> bool:
        """True for the types a 16- or 32-bit source stores: F32, F16, BF16."""
        return self in (GgmlType.F32, GgmlType.F16, GgmlType.BF16)

    @property
    def is_cache_only(self) -> bool:
        """True for the types of this package's KV caches, which no file holds."""
        return self in (GgmlType.TURBO2, GgmlType.TURBO3, GgmlType.TURBO4)

    @property
    def is_target(self) -> bool:
        """True if weights can be written in this type (``ggml_quantize_chunk`` handles it)."""
        if self.is_cache_only:
            return False
        return self.is_float or (self.is_quantized and self not in (GgmlType.Q8_1, GgmlType.Q8_K))

    @property
    def bpw(self) -> float:
        """Bits per weight of the block format."""
        return 8 * self.block_bytes / self.block_size

    def row_bytes(self, n_per_row: int) -> int:
        """Bytes of one row; raises ValueError unless n_per_row is a whole number of blocks."""
        if n_per_row % self.block_size:
            raise ValueError(
                f"row of {n_per_row} is not a multiple of {self.name}'s block of {self.block_size}"
            )
        return n_per_row // self.block_size * self.block_bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this row-major shape."""
        return self.row_bytes(shape[-1]) * prod(shape[:-1])

    @classmethod
    def parse(cls, name: str) -> GgmlType:
        """The type of that name, in any case; ValueError with the nearest names otherwise."""
        found = cls.__members__.get(name.upper())
        if found is not None:
            return found
        near = difflib.get_close_matches(name.upper(), cls.__members__, n=3, cutoff=0.7)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"unknown ggml type '{name}'{hint}")

    @classmethod
    def from_id(cls, id: int) -> GgmlType:
        """The type with ggml's number; ValueError for removed and unknown ones."""
        try:
            return _TYPE_BY_ID[id]
        except KeyError:
            raise ValueError(f"ggml type number {id} is unknown or was removed from ggml") from None


_TYPE_BY_ID = {t.id: t for t in GgmlType}

CACHE_TYPES = (
    *(GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0, GgmlType.Q5_1, GgmlType.Q5_0),
    *(GgmlType.Q4_1, GgmlType.Q4_0, GgmlType.IQ4_NL),
    *(GgmlType.TURBO4, GgmlType.TURBO3, GgmlType.TURBO2),
)
"""What a KV cache may hold: ``cache_types`` of csrc/model/cache_types.cpp (tests/test_types.py)."""

LONGEST_CONTEXT = 1 << 24
"""Tokens, more than models are made for. llama.cpp keeps 51 bytes of host memory for each, also
where nothing else is allocated: a plan for billions of them would be killed."""


class Role(Enum):
    """What a tensor does in the model; the unit in which recipes speak."""

    EXPERT_GATE = "expert_gate"
    EXPERT_UP = "expert_up"
    EXPERT_DOWN = "expert_down"
    EXPERT_GATE_UP = "expert_gate_up"
    """Gate and up fused in one tensor (``ffn_gate_up_exps``), as today's converters write."""
    SHARED_EXPERT = "shared_expert"
    DENSE_FFN = "dense_ffn"
    ATTENTION = "attention"
    SSM = "ssm"
    """State space, linear attention, gated delta net, RWKV time mixing, short convolution."""
    ROUTER = "router"
    NORM = "norm"
    EMBEDDING = "embedding"
    OUTPUT = "output"
    MTP = "mtp"
    """Multi-token prediction: ``nextn.*`` tensors that exist only there (its layers' other
    tensors keep their own role; ``ClassifiedTensor.is_mtp`` marks them)."""
    PROJECTOR = "projector"
    """Vision or audio encoder and projector."""
    OTHER = "other"
    """Known, but none of the above (scales, rope factors, adapters)."""

    @property
    def is_routed_expert(self) -> bool:
        """True for the tensors that hold one slice per routed expert."""
        return self in ROUTED_EXPERT_ROLES


ROUTED_EXPERT_ROLES = frozenset(
    {Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN, Role.EXPERT_GATE_UP}
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of a GGUF tensor table.

    shape is row-major; nbytes is the stored size; shard and offset say where the bytes lie
    (offset from the start of that shard's data section).
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    nbytes: int
    shard: int = 0
    offset: int = 0

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def n_per_row(self) -> int:
        """Weights in a row: ggml's ne[0]."""
        return self.shape[-1]

    @property
    def n_expert_slices(self) -> int:
        """How many slices have their own importance-matrix vector: ggml's ne[2], 1 for a matrix."""
        return self.shape[-3] if len(self.shape) >= 3 else 1


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What planning needs to know of a model file: metadata and tensor table, no data.

    metadata holds scalars and arrays of at most 4096 elements (block-wise settings); longer
    arrays (vocabularies) are left out. kv_sizes holds every key with its encoded bytes
    (key, type and value), so that the size of a copy's header can be computed exactly.
    n_layer_of_mixes: the count of layers that llama.cpp's mixes go by where it is not block_count
    (layers were left out, and they still go by the whole model's).
    as_stored: tensors in a quantized form that holds what was published exactly; plans keep it.
    """

    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    kv_sizes: Mapping[str, int]
    alignment: int = 32
    has_data: bool = True
    n_layer_of_mixes: int | None = None
    as_stored: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        n_bytes = sum(tensor.nbytes for tensor in self.tensors)
        data = "" if self.has_data else ", header only"
        return (
            f"GgufFacts({self.architecture!r}, {len(self.tensors)} tensors of {n_bytes:,} bytes, "
            f"{len(self.kv_sizes)} keys{data})"
        )

    @property
    def architecture(self) -> str:
        """``general.architecture``, or '' where the file has none."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class ClassifiedTensor:
    """A tensor with its place in the model.

    layer is the block index, None outside the blocks; is_mtp marks everything that belongs to
    multi-token prediction, whatever its role; rule names the table row that claimed it.
    """

    info: TensorInfo
    role: Role
    layer: int | None
    is_mtp: bool = False
    rule: str = ""

    @property
    def name(self) -> str:
        """GGUF name, verbatim."""
        return self.info.name


@dataclass(frozen=True, slots=True)
class Classification:
    """All tensors of a model, classified, in file order.

    facts is what was classified, of which everything here was found. n_layer is the trunk depth:
    MTP layers are not counted. n_layer_all counts them too.
    """

    facts: GgufFacts
    n_layer: int
    n_layer_all: int
    tensors: tuple[ClassifiedTensor, ...]
    n_expert: int = 0
    n_expert_used: int = 0
    warnings: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        experts = f", {self.n_expert} experts" if self.n_expert else ""
        warnings = f", {len(self.warnings)} warnings" if self.warnings else ""
        return (
            f"Classification({self.architecture!r}, {self.n_layer} layers{experts}, "
            f"{len(self.tensors)} tensors{warnings})"
        )

    @property
    def architecture(self) -> str:
        """The facts' architecture."""
        return self.facts.architecture
