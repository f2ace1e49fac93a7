"""What a sweep consists of: jobs, each a value that any worker on any machine can carry out.

A job holds everything its numbers depend on but the model's weights, which it names by hash; its
`key` is the hash of all of that. Equal keys are equal results, so what a store knows is never
computed again, and results of different settings cannot meet.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from apex_native.engine import Tokens

__all__ = [
    "Block",
    "Candidate",
    "Conditions",
    "Job",
    "MatrixJob",
    "NoiseJob",
    "ProbeJob",
    "ScoreJob",
    "SharedFile",
    "TaskJob",
    "job_key",
]

KEY_VERSION = 1
"""Changes when equal jobs would give other numbers for a reason no field names."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What numbers depend on beside the job: program, hardware, and the reference's fingerprint."""

    version: str
    llama_cpp_commit: str
    compiler: str
    device: str
    placement: str
    reference: str


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that workers read, wherever they are: its hash says whether they have the right one.

    digest: `model_fingerprint` of a model, sha256 of any other file.
    """

    path: str
    nbytes: int
    digest: str
    is_model: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive whole chunks of a text, computed in one go.

    tokens: int32, little-endian, of n_chunks * ctx. n_ubatch: tokens computed at once. What goes
    into a batch follows from the block alone, so that any worker gets the same bits.
    """

    text: str
    index: int
    tokens: bytes
    ctx: int
    n_ubatch: int

    @classmethod
    def of(cls, text: str, index: int, tokens: Tokens, ctx: int, n_ubatch: int) -> Block:
        """The block of an array."""
        return cls(text, index, np.ascontiguousarray(tokens, "<i4").tobytes(), ctx, n_ubatch)

    @property
    def array(self) -> Tokens:
        """The tokens, int32 (n_chunks * ctx,)."""
        return np.frombuffer(self.tokens, "<i4").astype(np.int32)

    @property
    def n_chunks(self) -> int:
        """Whole chunks."""
        return len(self.tokens) // 4 // self.ctx

    @property
    def identity(self) -> dict[str, Any]:
        """What of it numbers depend on; the text's name is not among that."""
        digest = hashlib.sha256(self.tokens).hexdigest()
        return {"tokens": digest, "ctx": self.ctx, "n_ubatch": self.n_ubatch}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under test: a plan (its JSON) and the matrix it is carried out with, or a file."""

    name: str
    plan: str | None = None
    matrix: SharedFile | None = None
    file: SharedFile | None = None
    type_k: str = "f16"
    type_v: str = "f16"

    @property
    def weights(self) -> str:
        """Hash of what its weights follow from; candidates that differ in caches share it."""
        if self.file is not None:
            return self.file.digest
        matrix = "" if self.matrix is None else self.matrix.digest
        return hashlib.sha256(f"{matrix}\n{self.plan}".encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What of it numbers depend on."""
        return {"weights": self.weights, "type_k": self.type_k, "type_v": self.type_v}


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """A candidate against the reference on a block: every scored position of both."""

    candidate: Candidate
    block: Block
    router: bool = True
    kind: ClassVar[str] = "score"

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        return {**self.candidate.identity, **self.block.identity, "router": self.router}

    @property
    def subject(self) -> str:
        """What a worker has at hand once it has done one of these."""
        return self.candidate.weights

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.candidate.name} on block {self.block.index} of {self.block.text}"

    @property
    def weight(self) -> float:
        """About how much work it is, in chunks."""
        return float(self.block.n_chunks)


@dataclass(frozen=True, slots=True)
class NoiseJob:
    """The reference against itself, a few positions at a time, on the first chunks of a block."""

    block: Block
    n_positions: int
    kind: ClassVar[str] = "noise"

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        return {**self.block.identity, "n_positions": self.n_positions}

    @property
    def subject(self) -> str:
        """See `ScoreJob`."""
        return "reference"

    @property
    def label(self) -> str:
        """In words."""
        return f"noise floor on {self.block.text}"

    @property
    def weight(self) -> float:
        """About how much work it is, in chunks."""
        return float(2 * self.block.n_chunks)


@dataclass(frozen=True, slots=True)
class TaskJob:
    """A model, the reference where candidate is None, asked the items of a task file."""

    candidate: Candidate | None
    task: str
    task_kind: str
    file: SharedFile
    n_tasks: int | None = 400
    kind: ClassVar[str] = "task"

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        model = {} if self.candidate is None else self.candidate.identity
        return {
            **model,
            "task": self.task,
            "task_kind": self.task_kind,
            "file": self.file.digest,
            "n_tasks": self.n_tasks,
        }

    @property
    def subject(self) -> str:
        """See `ScoreJob`."""
        return "reference" if self.candidate is None else self.candidate.weights

    @property
    def label(self) -> str:
        """In words."""
        return f"{'reference' if self.candidate is None else self.candidate.name}: {self.task}"

    @property
    def weight(self) -> float:
        """About how much work it is, in chunks: an item is some 100 tokens."""
        return (self.n_tasks or 1000) / 5


@dataclass(frozen=True, slots=True)
class MatrixJob:
    """Sums of squared inputs over a block; batch: tokens in flight together, as llama-imatrix's."""

    block: Block
    batch: int
    kind: ClassVar[str] = "matrix"

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        return {**self.block.identity, "batch": self.batch}

    @property
    def subject(self) -> str:
        """See `ScoreJob`."""
        return "calibration"

    @property
    def label(self) -> str:
        """In words."""
        return f"importance matrix, block {self.block.index} of {self.block.text}"

    @property
    def weight(self) -> float:
        """About how much work it is, in chunks."""
        return float(self.block.n_chunks)


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """The reference with some tensors in other types (name, type), on a block: sums of a chunk."""

    name: str
    types: tuple[tuple[str, str], ...]
    matrix: SharedFile | None
    block: Block
    kind: ClassVar[str] = "probe"

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on."""
        matrix = None if self.matrix is None else self.matrix.digest
        return {**self.block.identity, "types": sorted(self.types), "matrix": matrix}

    @property
    def subject(self) -> str:
        """See `ScoreJob`."""
        return f"probes {'' if self.matrix is None else self.matrix.digest}"

    @property
    def label(self) -> str:
        """In words."""
        return f"probe {self.name} on block {self.block.index} of {self.block.text}"

    @property
    def weight(self) -> float:
        """About how much work it is, in chunks: it starts at the layer it changes."""
        return self.block.n_chunks / 2


Job = ScoreJob | NoiseJob | TaskJob | MatrixJob | ProbeJob


def job_key(job: Job, conditions: Conditions) -> str:
    """sha256, in hex, of everything the job's result depends on."""
    data = {
        "version": KEY_VERSION,
        "kind": job.kind,
        "conditions": asdict(conditions),
        "job": job.identity,
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
