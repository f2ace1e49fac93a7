"""What a plan consists of: planned tensors, options, findings, and rows of its summaries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod

from apex_native.plan.imatrix import EntryFit, ImatrixUse
from apex_native.types import GgmlType, Role

__all__ = [
    "DecidedBy",
    "Finding",
    "FindingKind",
    "PlanDifference",
    "PlanOptions",
    "PlannedTensor",
    "RoleSummary",
    "Severity",
    "rules_sha256",
]


class DecidedBy(StrEnum):
    """What decided a tensor's type (before the shape fallback)."""

    KEPT = "kept"
    STORED = "stored"
    OPTION = "option"
    RULE = "rule"
    TIER = "tier"
    LIKE = "like"
    TYPES = "types"
    BASE = "base"


class Severity(StrEnum):
    """What a finding means for the run."""

    INFO = "info"
    WARNING = "warning"
    BLOCKING = "blocking"


class FindingKind(StrEnum):
    """What the audit looks for; ``severity`` says how bad it is."""

    RULE_WITHOUT_EFFECT = "rule-without-effect"
    UNCLAIMED = "unclaimed"
    SHAPE_FALLBACK = "shape-fallback"
    REQUANTIZES = "requantizes"
    UNSUPPORTED_SOURCE = "unsupported-source"
    IMATRIX_NEEDED = "imatrix-needed"
    IMATRIX_WRONG_SIZE = "imatrix-wrong-size"
    IMATRIX_FOREIGN = "imatrix-foreign"
    IMATRIX_MATCHES_NOTHING = "imatrix-matches-nothing"
    IMATRIX_PARTIAL = "imatrix-partial"
    IMATRIX_LACKS_ENTRY = "imatrix-lacks-entry"
    IMATRIX_SAME_INPUT = "imatrix-same-input"
    IMATRIX_OTHER_INPUT = "imatrix-other-input"
    IMATRIX_SAYS_NOTHING = "imatrix-says-nothing"
    EXPERTS_UNSEEN = "experts-unseen"
    EXPERTS_FEW_TOKENS = "experts-few-tokens"
    COLUMNS_SILENT = "columns-silent"
    COLUMNS_RAISED = "columns-raised"
    INCOMPLETE_MODEL = "incomplete-model"
    PROMISED_LAYERS = "promised-layers"
    REPAIRED = "repaired"
    READERS_LACK_TYPE = "readers-lack-type"
    SCALE_UNDERFLOW = "scale-underflow"
    ERROR_OUT_OF_PROPORTION = "error-out-of-proportion"
    LIKE_NOT_FOLLOWED = "like-not-followed"
    FOLLOWS_BASE = "follows-base"
    TIER_VARIANT = "tier-variant"
    TIER_UNREACHED = "tier-unreached"
    TIER_FOR_EXPERTS = "tier-for-experts"
    ROLE_ABSENT = "role-absent"
    NOT_AS_UPSTREAM = "not-as-upstream"

    @property
    def severity(self) -> Severity:
        """INFO needs no action, WARNING stops a strict plan, BLOCKING stops quantization."""
        return _SEVERITIES[self]


_SEVERITIES = {
    FindingKind.RULE_WITHOUT_EFFECT: Severity.WARNING,
    FindingKind.UNCLAIMED: Severity.WARNING,
    FindingKind.SHAPE_FALLBACK: Severity.WARNING,
    FindingKind.REQUANTIZES: Severity.WARNING,
    FindingKind.UNSUPPORTED_SOURCE: Severity.BLOCKING,
    FindingKind.IMATRIX_NEEDED: Severity.BLOCKING,
    FindingKind.IMATRIX_WRONG_SIZE: Severity.BLOCKING,
    FindingKind.IMATRIX_FOREIGN: Severity.WARNING,
    FindingKind.IMATRIX_MATCHES_NOTHING: Severity.BLOCKING,
    FindingKind.IMATRIX_PARTIAL: Severity.WARNING,
    FindingKind.IMATRIX_LACKS_ENTRY: Severity.INFO,
    FindingKind.IMATRIX_SAME_INPUT: Severity.INFO,
    FindingKind.IMATRIX_OTHER_INPUT: Severity.WARNING,
    FindingKind.IMATRIX_SAYS_NOTHING: Severity.WARNING,
    FindingKind.EXPERTS_UNSEEN: Severity.WARNING,
    FindingKind.EXPERTS_FEW_TOKENS: Severity.WARNING,
    FindingKind.COLUMNS_SILENT: Severity.WARNING,
    FindingKind.COLUMNS_RAISED: Severity.INFO,
    FindingKind.INCOMPLETE_MODEL: Severity.WARNING,
    FindingKind.PROMISED_LAYERS: Severity.WARNING,
    FindingKind.REPAIRED: Severity.INFO,
    FindingKind.READERS_LACK_TYPE: Severity.WARNING,
    FindingKind.SCALE_UNDERFLOW: Severity.WARNING,
    FindingKind.ERROR_OUT_OF_PROPORTION: Severity.WARNING,
    FindingKind.LIKE_NOT_FOLLOWED: Severity.INFO,
    FindingKind.FOLLOWS_BASE: Severity.INFO,
    FindingKind.TIER_VARIANT: Severity.INFO,
    FindingKind.TIER_UNREACHED: Severity.WARNING,
    FindingKind.TIER_FOR_EXPERTS: Severity.WARNING,
    FindingKind.ROLE_ABSENT: Severity.INFO,
    FindingKind.NOT_AS_UPSTREAM: Severity.INFO,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the audit; tensor is '' where it concerns the plan as a whole.

    The last one looked for, ERROR_OUT_OF_PROPORTION, is of the written file and in its manifest.
    """

    kind: FindingKind
    tensor: str
    message: str

    @property
    def severity(self) -> Severity:
        """The severity of its kind."""
        return self.kind.severity


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output.

    shape is row-major; wanted is the type asked for, type the one after the shape fallback;
    nbytes the stored size without padding; note says how the other semantics would differ;
    imatrix_source names the entry that serves it where that is another tensor's.
    """

    name: str
    role: Role
    layer: int | None
    is_mtp: bool
    shape: tuple[int, ...]
    source_type: GgmlType
    wanted: GgmlType
    type: GgmlType
    decided_by: DecidedBy
    reason: str
    imatrix: ImatrixUse
    imatrix_entry: EntryFit
    note: str = ""
    imatrix_source: str = ""

    @property
    def nbytes(self) -> int:
        """Stored bytes, without padding."""
        return self.type.tensor_bytes(self.shape)

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The overrides a plan was made with, as the user gave them."""

    tensor_types: tuple[str, ...] = ()
    output_tensor_type: GgmlType | None = None
    token_embedding_type: GgmlType | None = None
    leave_output_tensor: bool = False
    pure: bool = False
    repair: bool = False
    override_kv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleSummary:
    """All tensors of one role: count, weights, bytes, and the number of tensors by type."""

    role: Role
    n_tensors: int
    n_elements: int
    nbytes: int
    types: Mapping[GgmlType, int]

    @property
    def bpw(self) -> float:
        """Bits per weight."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else 0.0


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """A tensor that two plans store differently; None where a plan does not have it."""

    name: str
    type: GgmlType | None
    other_type: GgmlType | None
    nbytes: int
    other_nbytes: int


def rules_sha256(types: Iterable[tuple[str, GgmlType]]) -> str:
    """SHA-256 of the lines ``name=TYPE``, sorted by name bytes, each ended by a newline."""
    lines = [f"{name}={tensor_type.name}\n" for name, tensor_type in types]
    encoded = sorted(line.encode("utf-8", "surrogateescape") for line in lines)
    return hashlib.sha256(b"".join(encoded)).hexdigest()
