"""The space of a search: what each tensor may be, what a choice weighs as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from apex_native.allocation.ladder import ladder_types, type_choices
from apex_native.allocation.provenance import UNKNOWN
from apex_native.allocation.request import SearchRequest
from apex_native.allocation.solve import Problem
from apex_native.allocation.units import ALWAYS_ACTIVE, Unit, make_units
from apex_native.classification import classify_tensors
from apex_native.errors import PlanError
from apex_native.gguf import GgufFile
from apex_native.gguf_layout import ALIGNMENT, padded
from apex_native.imatrix import Hessian
from apex_native.plan import Plan, make_plan
from apex_native.plan.imatrix import ImatrixSummary
from apex_native.plan.names import is_token_embedding
from apex_native.plan.parts import DecidedBy, FindingKind
from apex_native.quantization import with_hessian_metadata
from apex_native.types import Classification, GgmlType, MetadataValue, Role, TensorInfo

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """Everything about the choice but its consequences."""

    source: GgufFile
    imatrix: ImatrixSummary | None
    classification: Classification
    request: SearchRequest
    metadata: Mapping[str, MetadataValue]
    hessian: Hessian | None = None
    """What bytes are fitted to; files say so."""

    @classmethod
    def of(
        cls,
        source: GgufFile,
        imatrix: ImatrixSummary | None,
        request: SearchRequest,
        metadata: Mapping[str, MetadataValue] | None = None,
        hessian: Hessian | None = None,
    ) -> SearchSpace:
        """The space of a file; metadata is written into every result."""
        classified = classify_tensors(source.facts)
        return cls(source, imatrix, classified, request, metadata or {}, hessian)

    @classmethod
    def with_any_matrix(cls, source: GgufFile, request: SearchRequest) -> SearchSpace:
        """The space as if an importance matrix knew every weight: before one is collected."""
        entries = {
            tensor.name: (tensor.n_per_row, tensor.n_expert_slices)
            for tensor in source.tensors
            if not is_token_embedding(tensor.name)
        }
        return cls.of(source, ImatrixSummary(entries, sha256=""), request)

    def plan(
        self, types: Mapping[str, GgmlType], facts: Mapping[str, MetadataValue] = UNKNOWN
    ) -> Plan:
        """The plan that stores the tensors so; the user's rules come before it.

        facts: what the file says of its search, as long as `UNKNOWN`.
        """
        plan = make_plan(
            self.classification,
            types=types,
            reason="found by the search",
            tensor_types=self.request.tensor_types,
            imatrix=self.imatrix,
            extra_metadata={**self.metadata, **facts},
        )
        return self._fitted(plan)

    def fixed_plan(self, *, tier: str | None = None, ftype: str | None = None) -> Plan:
        """A fixed recipe with the same matrix, without the user's rules."""
        plan = make_plan(
            self.classification,
            tier=tier,
            ftype=ftype,
            imatrix=self.imatrix,
            extra_metadata=self.metadata,
        )
        return self._fitted(plan)

    def _fitted(self, plan: Plan) -> Plan:
        if self.hessian is None:
            return plan
        return with_hessian_metadata(plan, self.hessian.digest, self.hessian.n_tokens)

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.source.tensors}

    @cached_property
    def _smallest_plan(self) -> Plan:
        """Decides what has a choice at all: with Q8_0 or a smaller block for everything."""
        types = {
            tensor.name: GgmlType.Q8_0 for tensor in self.source.tensors if tensor.type.is_float
        }
        return self.plan(types)

    def rules_without_effect(self) -> list[str]:
        """A sentence for every pin that matches nothing, or decides nothing."""
        return [
            finding.message
            for finding in self._smallest_plan.findings
            if finding.kind is FindingKind.RULE_WITHOUT_EFFECT
        ]

    @cached_property
    def choices(self) -> dict[str, tuple[GgmlType, ...]]:
        """Types of every tensor that has a choice or a rule, most precise first."""
        plan = self._smallest_plan
        pinned = {t.name: t.type for t in plan.tensors if t.decided_by is DecidedBy.RULE}
        kept = {
            t.name
            for t in plan.tensors
            if t.decided_by is DecidedBy.KEPT or not t.source_type.is_float
        }
        ladder = ladder_types(self.request.ladder)
        all_choices = type_choices(plan, self.source.tensors, ladder, self.imatrix, pinned)
        return {
            name: self._unmeasured(types)
            if name in self._never_computed
            else self._above_floor(name, types)
            for name, types in all_choices.items()
            if name not in kept
        }

    @cached_property
    def _never_computed(self) -> set[str]:
        """Tensors that scoring a text does not touch, so that no probe sees them."""
        return {
            tensor.name
            for tensor in self.classification.tensors
            if tensor.is_mtp or tensor.role in (Role.MTP, Role.PROJECTOR)
        }

    @staticmethod
    def _unmeasured(types: tuple[GgmlType, ...]) -> tuple[GgmlType, ...]:
        """What they get: about 6 bits, which needs no importance matrix and costs little."""
        return (min(types, key=lambda choice: abs(choice.bpw - GgmlType.Q6_K.bpw)),)

    def _above_floor(self, name: str, types: tuple[GgmlType, ...]) -> tuple[GgmlType, ...]:
        floor = self.request.floor
        if floor is None or len(types) == 1 or name not in self._floored:
            return types
        return tuple(t for t in types if t.bpw >= floor.bpw) or types[:1]

    @cached_property
    def _floored(self) -> set[str]:
        units = make_units(self.classification, self.infos)
        return {name for unit in units if unit.kind in ALWAYS_ACTIVE for name in unit.tensors}

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What is measured together; tensors that are pinned are part of their unit."""
        measured = [name for name in self.choices if name not in self._never_computed]
        return make_units(self.classification, measured)

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Tensors that get one type."""
        if not self.request.together:
            return tuple((name,) for name in self.choices)
        groups: list[tuple[str, ...]] = []
        taken: set[str] = set()
        for unit in self.units:
            if unit.kind == "gate_up":
                groups.append(unit.tensors)
                taken.update(unit.tensors)
        return (*groups, *((name,) for name in self.choices if name not in taken))

    def nbytes(self, name: str, type: GgmlType) -> int:
        """Bytes of a tensor in the file, padding included."""
        return padded(type.tensor_bytes(self.infos[name].shape), ALIGNMENT)

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes of a result that no choice changes: header, table, tensors that are kept."""
        plan = self._smallest_plan
        types = plan.types
        return plan.total_bytes - sum(self.nbytes(name, types[name]) for name in self.choices)

    def file_bytes(self, types: Mapping[str, GgmlType]) -> int:
        """Size of the file with these types."""
        return self.fixed_bytes + sum(self.nbytes(name, types[name]) for name in self.choices)

    def problem(self, budget: int) -> Problem:
        """The knapsack of a budget; PlanError with the numbers where nothing fits it."""
        least = self.smallest_bytes()
        if budget < least:
            raise PlanError(
                f"a budget of {budget:,} bytes is below {least:,}, the smallest file this model "
                f"can become in the ladder {self.request.ladder}{self._what_would_help()}; give "
                "more bytes"
            )
        source = sum(path.stat().st_size for path in self.source.shard_paths)
        if budget >= source:
            raise PlanError(
                f"a budget of {budget:,} bytes is not below the source's {source:,}: the source "
                "itself is the best file of that size"
            )
        return Problem(self.groups, self.choices, self.nbytes, budget - self.fixed_bytes)

    def smallest_bytes(self) -> int:
        """Of the smallest file this space holds."""
        return self.fixed_bytes + sum(
            min(self.nbytes(name, type) for type in types) for name, types in self.choices.items()
        )

    def _what_would_help(self) -> str:
        """What makes the smallest file as large as it is, with the numbers."""
        reasons = ""
        if self.request.tensor_types:
            free = replace(self, request=replace(self.request, tensor_types=()))
            if free.smallest_bytes() < self.smallest_bytes():
                reasons += (
                    f", with the types that rules pin ({free.smallest_bytes():,} bytes without "
                    "them)"
                )
        if self.imatrix is None:
            other = SearchSpace.with_any_matrix(self.source, self.request)
            if other.smallest_bytes() < self.smallest_bytes():
                reasons += (
                    f", without an importance matrix ({other.smallest_bytes():,} bytes with one)"
                )
        return reasons

    def probe_types(self, anchors: Sequence[GgmlType]) -> dict[str, tuple[GgmlType, ...]]:
        """For every tensor with a choice, what stands for each anchor: the nearest it can be."""
        stand_ins = {}
        for name, types in self.choices.items():
            quantized = [t for t in types if t is not self.infos[name].type] or list(types)
            stand_ins[name] = tuple(
                min(quantized, key=lambda t: (abs(t.bpw - anchor.bpw), t is not anchor))
                for anchor in anchors
            )
        return stand_ins
