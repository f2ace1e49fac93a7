"""The plan: every tensor's type, why it has it, and what the file will weigh."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apex_native.atomic_write import write_atomically
from apex_native.errors import PlanError
from apex_native.gguf_layout import FileLayout, MetadataEntry, layout_file
from apex_native.json_codec import decode, encode
from apex_native.plan.edges import Edges
from apex_native.plan.parts import (
    Finding,
    PlanDifference,
    PlannedTensor,
    PlanOptions,
    RoleSummary,
    Severity,
    rules_sha256,
)
from apex_native.printable import counted
from apex_native.types import GgmlType, GgufFacts, Role

__all__ = ["SCHEMA_VERSION", "Plan"]

SCHEMA_VERSION = 1

_FINDINGS_SHOWN = 8
"""Of those that stop a strict plan; `apex-native plan --explain` has all."""


@dataclass(frozen=True)
class Plan:
    """A complete, checked decision about an output file; tensors are in the source's order.

    base says which of tier, ftype, another file's types ("like") or a map of types ("types") it
    was made from; ftype is the base mix ('' for the last two); edges and edges_rule are None and ''
    without a tier. kv_bytes is the encoded size of all key-value pairs of the output; metadata
    lists those that are written anew, metadata_removed the source's keys that are not copied.
    """

    base: str
    tier: str | None
    semantics: str | None
    ftype: str
    file_type: int
    architecture: str
    n_layer: int
    n_layer_all: int
    edges: Edges | None
    edges_rule: str
    needs_imatrix: bool
    imatrix_sha256: str | None
    options: PlanOptions
    tensors: tuple[PlannedTensor, ...]
    metadata: tuple[MetadataEntry, ...]
    metadata_removed: tuple[str, ...]
    kv_bytes: int
    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        recipe = self.tier or self.ftype or self.base
        findings = f", {len(self.findings)} findings" if self.findings else ""
        return (
            f"Plan({recipe!r}, {len(self.tensors)} tensors, {self.total_bytes:,} bytes, "
            f"{self.bpw:.3f} bpw{findings})"
        )

    @cached_property
    def layout(self) -> FileLayout:
        """Where everything lies if the output is one file."""
        return layout_file(self.tensors, self.kv_bytes)

    @property
    def total_bytes(self) -> int:
        """Exact size of the output as one file."""
        return self.layout.total_bytes

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without header and padding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors, header and padding left out (as llama.cpp prints)."""
        n_elements = sum(tensor.n_elements for tensor in self.tensors)
        return 8 * self.tensor_bytes / n_elements if n_elements else 0.0

    @property
    def rules_sha256(self) -> str:
        """Hash of the resolved name → type map; equal plans have equal hashes."""
        return rules_sha256((tensor.name, tensor.type) for tensor in self.tensors)

    @property
    def imatrix_prior(self) -> str | None:
        """The prior that was applied to the importance matrix; None: its own values."""
        values = [e.value for e in self.metadata if e.key == "apex.imatrix_prior"]
        return str(values[0]) if values else None

    @property
    def types(self) -> dict[str, GgmlType]:
        """The name → type map, fit for another plan's ``like``."""
        return {tensor.name: tensor.type for tensor in self.tensors}

    @property
    def blocking_findings(self) -> tuple[Finding, ...]:
        """Findings with which the plan cannot be carried out."""
        return tuple(f for f in self.findings if f.severity is Severity.BLOCKING)

    def require_clean(self) -> None:
        """Raise PlanError that lists every finding above INFO, if there is one."""
        bad = [finding for finding in self.findings if finding.severity is not Severity.INFO]
        if not bad:
            return
        lines = [f"{f.kind}: {f.tensor + ': ' if f.tensor else ''}{f.message}" for f in bad]
        shown = "\n  ".join(lines[:_FINDINGS_SHOWN])
        more = len(lines) - _FINDINGS_SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        count = counted(len(lines), "finding")
        advice = "settle what follows or leave out `strict=True`"
        raise PlanError(f"the plan has {count}; {advice}:\n  {shown}{rest}")

    def summary_by_role(self) -> tuple[RoleSummary, ...]:
        """One row for each role that has tensors, in the order of ``Role``."""
        rows = []
        for role in Role:
            members = [tensor for tensor in self.tensors if tensor.role is role]
            if members:
                rows.append(
                    RoleSummary(
                        role=role,
                        n_tensors=len(members),
                        n_elements=sum(tensor.n_elements for tensor in members),
                        nbytes=sum(tensor.nbytes for tensor in members),
                        types=dict(Counter(tensor.type for tensor in members).most_common()),
                    )
                )
        return tuple(rows)

    def differences(self, other: Plan) -> tuple[PlanDifference, ...]:
        """Tensors whose type differs, in this plan's order, then those only the other has."""
        theirs = {tensor.name: tensor for tensor in other.tensors}
        rows = []
        for tensor in self.tensors:
            match = theirs.pop(tensor.name, None)
            if match is None:
                rows.append(PlanDifference(tensor.name, tensor.type, None, tensor.nbytes, 0))
            elif match.type is not tensor.type:
                rows.append(
                    PlanDifference(
                        tensor.name, tensor.type, match.type, tensor.nbytes, match.nbytes
                    )
                )
        only_theirs = theirs.values()
        rows += [PlanDifference(t.name, None, t.type, 0, t.nbytes) for t in only_theirs]
        return tuple(rows)

    def check_source(self, facts: GgufFacts) -> None:
        """Raise PlanError unless the file has exactly this plan's tensors, shapes and types."""
        found = {tensor.name: (tensor.shape, tensor.type) for tensor in facts.tensors}
        for tensor in self.tensors:
            expected = (tensor.shape, tensor.source_type)
            actual = found.pop(tensor.name, None)
            if actual != expected:
                have = "no such tensor" if actual is None else f"{actual[0]} {actual[1]}"
                raise PlanError(
                    f"this plan was made for another file: {tensor.name} should be "
                    f"{expected[0]} {expected[1]}, found {have}; make the plan again"
                )
        if found:
            raise PlanError(
                f"this plan was made for another file: it lacks {len(found)} tensors, the first "
                f"is {next(iter(found))}; make the plan again"
            )

    def to_json(self) -> str:
        """The plan as JSON text with derived sizes beside the stored ones; see ``from_json``."""
        data = {"schema_version": SCHEMA_VERSION, **self._derived(), **encode(self)}
        for row, tensor in zip(data["tensors"], self.tensors, strict=True):
            row["bytes"] = tensor.nbytes
        for row, finding in zip(data["findings"], self.findings, strict=True):
            row["severity"] = finding.severity.value
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that is equal to the one written.

        Raises PlanError for anything that is no plan, for another schema version, and for a
        plan whose sizes or hash do not follow from its tensors (edited by hand: give the change
        to make_plan as a tensor-type rule instead).
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"plan: not JSON: {error}") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version is True or version != SCHEMA_VERSION:  # True == 1
            raise PlanError(f"plan: schema_version must be {SCHEMA_VERSION}, found {version!r}")
        plan = decode(cls, data, "plan", error=PlanError)
        plan._check_consistent(data)
        return plan

    def save(self, path: str | Path) -> None:
        """Write the JSON, whole or not at all; OutputError on failure."""
        write_atomically(path, self.to_json(), what="plan")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a saved plan; PlanError if it is unreadable."""
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise PlanError(
                f"cannot read plan {path}: {error.strerror}; make one with "
                "`apex-native plan -o`, or check the path"
            ) from error
        except UnicodeDecodeError:
            raise PlanError(f"{path}: no text, so no plan; give what a plan was saved as") from None
        try:
            return cls.from_json(text)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    def _derived(self) -> dict[str, object]:
        """What readers of the JSON want and from_json checks: it follows from the tensors."""
        return {
            "total_bytes": self.total_bytes,
            "header_bytes": self.layout.header_bytes,
            "bpw": self.bpw,
            "rules_sha256": self.rules_sha256,
            "bytes_by_role": {row.role.value: row.nbytes for row in self.summary_by_role()},
        }

    def _check_consistent(self, data: dict[str, Any]) -> None:
        for row, tensor in zip(data["tensors"], self.tensors, strict=True):
            if tensor.shape[-1] % tensor.type.block_size or row.get("bytes") != tensor.nbytes:
                raise PlanError(
                    f"plan: {tensor.name} cannot be {tensor.type} in {row.get('bytes')} bytes; "
                    "a plan is not edited by hand, make it again with a tensor-type rule"
                )
        for key, value in self._derived().items():
            if data.get(key) != value:
                raise PlanError(
                    f"plan: {key} is {data.get(key)!r}, its tensors give {value!r}; "
                    "a plan is not edited by hand, make it again with a tensor-type rule"
                )
