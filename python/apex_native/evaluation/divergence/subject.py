"""What results say of a model file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import open_gguf
from apex_native.types import GgmlType

__all__ = ["CandidateSpec", "Subject", "describe", "name_candidates"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A file on disk: bytes of all shards, stored bits a weight, a hash of what is in it."""

    name: str
    path: Path
    bytes: int
    bpw: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CandidateSpec:
    """A model under test with the types of its KV cache."""

    subject: Subject
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16


def describe(path: str | os.PathLike[str]) -> Subject:
    """Look at a file; GgufError where it is none or holds no weights."""
    with open_gguf(path) as file:
        n_weights = sum(tensor.n_elements for tensor in file.tensors)
        stored = sum(tensor.nbytes for tensor in file.tensors)
        return Subject(
            name=file.path.stem,
            path=file.path,
            bytes=sum(shard.stat().st_size for shard in file.shard_paths),
            bpw=8 * stored / n_weights,
            fingerprint=model_fingerprint(file),
        )


def name_candidates(candidates: list[CandidateSpec], taken: set[str]) -> list[str]:
    """A name for each: the file's, with its folder or a number where that is taken."""
    names: list[str] = []
    used = set(taken)
    for candidate in candidates:
        name = candidate.subject.name
        if candidate.type_k is not GgmlType.F16 or candidate.type_v is not GgmlType.F16:
            name += f" (cache {candidate.type_k.name.lower()}/{candidate.type_v.name.lower()})"
        if name in used:
            name = f"{candidate.subject.path.parent.name}/{name}"
        base, number = name, 2
        while name in used:
            name, number = f"{base} ({number})", number + 1
        used.add(name)
        names.append(name)
    return names
