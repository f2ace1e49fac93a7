"""What a quantization did: per tensor the type, the bytes and the error it cost."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.atomic_write import write_atomically
from apex_native.json_codec import encode
from apex_native.plan import Finding, PlannedTensor
from apex_native.quantization.feedback import OutputErrors
from apex_native.quantization.journal import FinishedTensor
from apex_native.types import GgmlType, Role

__all__ = ["HeaderRecord", "QuantizeManifest", "RoleError", "TensorRecord", "tensor_record"]

MANIFEST_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One written tensor; the sums are over all its weights, in double, in row order."""

    name: str
    role: Role
    layer: int | None
    shape: tuple[int, ...]
    source_type: GgmlType
    type: GgmlType
    nbytes: int
    squared_error: float
    squared_weights: float
    outputs: OutputErrors | None = None
    """Where second moments were used."""
    checksum: str | None = None
    """Of the written rows: see `GgufFile.checksums`."""

    @property
    def relative_rmse(self) -> float:
        """sqrt(sum (w - q)^2 / sum w^2): 0 for a copied tensor or one of zeros."""
        if self.squared_weights == 0:
            return 0.0
        return math.sqrt(self.squared_error / self.squared_weights)


def tensor_record(tensor: PlannedTensor, finished: FinishedTensor) -> TensorRecord:
    """What is kept of a planned tensor that was written."""
    outputs = finished.outputs
    return TensorRecord(
        name=tensor.name,
        role=tensor.role,
        layer=tensor.layer,
        shape=tensor.shape,
        source_type=tensor.source_type,
        type=tensor.type,
        nbytes=tensor.nbytes,
        squared_error=finished.squared_error,
        squared_weights=finished.squared_weights,
        outputs=None if outputs is None else OutputErrors(**outputs),
        checksum=finished.checksum,
    )


@dataclass(frozen=True, slots=True)
class HeaderRecord:
    """What a written file begins with, before its tensors' data."""

    nbytes: int
    sha256: str

    @classmethod
    def of(cls, header: bytes) -> HeaderRecord:
        """Of the bytes themselves."""
        return cls(len(header), hashlib.sha256(header).hexdigest())


@dataclass(frozen=True, slots=True)
class RoleError:
    """Relative RMSE over all quantized tensors of one role."""

    role: Role
    n_tensors: int
    relative_rmse: float


@dataclass(frozen=True, slots=True)
class QuantizeManifest:
    """The record of one run; files are the written shards in order."""

    files: tuple[Path, ...]
    total_bytes: int
    tier: str | None
    ftype: str
    semantics: str | None
    bpw: float
    rules_sha256: str
    imatrix_sha256: str | None
    imatrix_prior: str | None
    source_fingerprint: str
    build: Mapping[str, Any]
    n_threads: int
    elapsed_s: float
    resumed_tensors: int
    tensors: tuple[TensorRecord, ...]
    device_rows: int = 0
    """Rows quantized on GPUs, and how many of them the CPU compared."""
    verified_rows: int = 0
    findings: tuple[Finding, ...] = ()
    """What the plan's audit found, and which tensors' errors are out of proportion."""
    hessian_digest: str | None = None
    hessian_tokens: int = 0
    headers: tuple[HeaderRecord, ...] = ()
    """Of each file."""
    own_rules: bool = False
    """Tier or file type alone do not make this file: the plan had overrides or edges of its own."""

    def outputs_by_role(self) -> tuple[tuple[Role, OutputErrors], ...]:
        """Errors of outputs of each role that has tensors with second moments."""
        found = []
        for role in Role:
            rows = [t.outputs for t in self.tensors if t.role is role and t.outputs is not None]
            if rows:
                found.append((role, OutputErrors.total(rows)))
        return tuple(found)

    def __repr__(self) -> str:
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return (
            f"QuantizeManifest({str(self.files[0])!r}{more}, {len(self.tensors)} tensors, "
            f"{self.total_bytes:,} bytes, {self.bpw:.3f} bpw, {self.elapsed_s:.1f} s)"
        )

    def errors_by_role(self) -> tuple[RoleError, ...]:
        """Relative RMSE of each role that has quantized tensors, in the order of ``Role``."""
        rows = []
        for role in Role:
            members = [t for t in self.tensors if t.role is role and t.type is not t.source_type]
            if members:
                error = math.fsum(t.squared_error for t in members)
                weights = math.fsum(t.squared_weights for t in members)
                rows.append(
                    RoleError(role, len(members), math.sqrt(error / weights) if weights else 0.0)
                )
        return tuple(rows)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: ``total_bytes`` and ``tensors[].{name,role,layer,type,bytes,…}``."""
        return {
            "schema_version": MANIFEST_SCHEMA_VERSION,
            "files": [path.name for path in self.files],
            "headers": [encode(header) for header in self.headers],
            "total_bytes": self.total_bytes,
            "tier": self.tier,
            "ftype": self.ftype,
            "semantics": self.semantics,
            "bpw": self.bpw,
            "rules_sha256": self.rules_sha256,
            "own_rules": self.own_rules,
            "imatrix_sha256": self.imatrix_sha256,
            "imatrix_prior": self.imatrix_prior,
            "findings": [
                {**encode(finding), "severity": finding.severity.value} for finding in self.findings
            ],
            "source_fingerprint": self.source_fingerprint,
            "build": dict(self.build),
            "n_threads": self.n_threads,
            "elapsed_s": self.elapsed_s,
            "resumed_tensors": self.resumed_tensors,
            "device_rows": self.device_rows,
            "verified_rows": self.verified_rows,
            "hessian": self._hessian(),
            "roles": [
                {
                    "role": row.role.value,
                    "tensors": row.n_tensors,
                    "relative_rmse": row.relative_rmse,
                }
                for row in self.errors_by_role()
            ],
            "tensors": [
                {
                    "name": tensor.name,
                    "role": tensor.role.value,
                    "layer": tensor.layer,
                    "shape": list(tensor.shape),
                    "source_type": tensor.source_type.name,
                    "type": tensor.type.name,
                    "bytes": tensor.nbytes,
                    "relative_rmse": tensor.relative_rmse,
                    "checksum": tensor.checksum,
                    **({"outputs": tensor.outputs.to_dict()} if tensor.outputs else {}),
                }
                for tensor in self.tensors
            ],
        }

    def _hessian(self) -> dict[str, Any] | None:
        if self.hessian_digest is None:
            return None
        rows = self.outputs_by_role()
        return {
            "digest": self.hessian_digest,
            "tokens": self.hessian_tokens,
            "tensors": sum(tensor.outputs is not None for tensor in self.tensors),
            "roles": [{"role": role.value, **errors.to_dict()} for role, errors in rows],
        }

    def to_json(self) -> str:
        """`to_dict` as indented text."""
        return json.dumps(self.to_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, whole or not at all; OutputError on failure."""
        write_atomically(
            path,
            self.to_json() + "\n",
            what="manifest",
            advice="choose another place for the manifest",
        )
