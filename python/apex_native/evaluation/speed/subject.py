"""The model under test, as results name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apex_native.engine import Model
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import open_gguf

__all__ = ["SpeedSubject", "describe_subject"]


@dataclass(frozen=True, slots=True)
class SpeedSubject:
    """Sizes in bytes, all shards together; bpw counts stored bits over weights, no header.

    fingerprint is `apex_native.fingerprint.model_fingerprint`'s.
    """

    name: str
    path: str
    bytes: int
    bpw: float
    n_parameters: int
    description: str
    fingerprint: str


def describe_subject(model: Model) -> SpeedSubject:
    """Look at a loaded model's file again; GgufError if it has become unreadable."""
    with open_gguf(model.path) as file:
        stored = sum(tensor.nbytes for tensor in file.tensors)
        weights = sum(tensor.n_elements for tensor in file.tensors)
        return SpeedSubject(
            name=Path(model.path).name,
            path=model.path,
            bytes=sum(path.stat().st_size for path in file.shard_paths),
            bpw=8 * stored / weights,
            n_parameters=model.n_parameters,
            description=model.description,
            fingerprint=model_fingerprint(file),
        )
