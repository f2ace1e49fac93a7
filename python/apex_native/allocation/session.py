"""Measuring in memory: a loaded reference, and values that take the place of its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from apex_native._native import core, forward_log
from apex_native.allocation.store import Probe, ProbeStore, Scores
from apex_native.allocation.texts import Part
from apex_native.allocation.values import BATCH_BYTES, TensorValues, Types
from apex_native.classification import classify_tensors
from apex_native.closable import Closable
from apex_native.engine import Model, Placement
from apex_native.fingerprint import model_fingerprint
from apex_native.gguf import GgufFile
from apex_native.imatrix import Hessian, Imatrix
from apex_native.interrupt import run_interruptible
from apex_native.machine import default_threads
from apex_native.plan.names import layer_number
from apex_native.quantization import DeviceUse

__all__ = ["Costs", "Measurement", "ProbeSession", "SessionSettings"]

LANE_BYTES = 2 << 30
"""Models up to this size are computed by a lane a thread, larger ones by one of all threads."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How models are loaded and computed."""

    ctx: int = 512
    placement: Placement = field(default_factory=Placement)


@dataclass(slots=True)
class Costs:
    """What was spent: chunks computed by reference and candidates, seconds."""

    forward_passes: int = 0
    stored_passes: int = 0
    forward_s: float = 0.0
    quantize_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate on a part of the text, chunk after chunk; arrays of length n_chunks.

    positions float64 (n_chunks, scored positions): KLD of each, empty where it came from a store.
    """

    scores: tuple[Scores, ...]
    positions: Any = None

    @property
    def kld(self) -> Any:
        """Mean KLD of each chunk, nats."""
        return np.array([s.kld / s.n for s in self.scores])

    @property
    def nll(self) -> Any:
        """Mean NLL of each chunk, nats."""
        return np.array([s.nll / s.n for s in self.scores])

    def and_then(self, other: Measurement) -> Measurement:
        """The same candidate on these chunks and on others; both with positions, or neither."""
        both = None
        if self.positions is not None and other.positions is not None:
            both = np.concatenate([self.positions, other.positions])
        return Measurement((*self.scores, *other.scores), both)

    @property
    def mean(self) -> float:
        """KLD over all scored positions."""
        return float(sum(s.kld for s in self.scores) / sum(s.n for s in self.scores))


class ProbeSession(Closable):
    """A reference, its lanes, and the values made so far; use it in a ``with`` statement."""

    def __init__(
        self,
        source: GgufFile,
        imatrix: Imatrix | None,
        store: ProbeStore,
        settings: SessionSettings,
        hessian: Hessian | None = None,
    ) -> None:
        """Load the reference; ModelError, GgufError. hessian: values are fitted to it."""
        self.source, self.store, self.settings = source, store, settings
        self.n_threads = settings.placement.n_threads or default_threads()
        self._stack = ExitStack()
        self._stop = core.StopFlag()
        self._costs = Costs()
        self._fingerprint = model_fingerprint(source)
        self.values = TensorValues(
            source, imatrix, hessian, n_threads=self.n_threads, stop=self._stop,
            devices=DeviceUse.parse(settings.placement.quantizing_device).numbers,
        )  # fmt: skip
        size = sum(Path(path).stat().st_size for path in source.shard_paths)
        n_lanes = 1 if settings.placement.on_gpu or size > LANE_BYTES else self.n_threads
        self.models = [self._load() for _ in range(n_lanes)]
        self.n_layer = classify_tensors(source.facts).n_layer
        self._scorer = core.ProbeScorer(
            [model.native for model in self.models],
            n_ctx=settings.ctx,
            n_threads=max(1, self.n_threads // n_lanes),
            stop=self._stop,
        )
        forward_log()

    def _load(self) -> Model:
        # What takes a weight's place is rearranged where that pays; the reference's own must be
        # readable for layers to start in the middle.
        placement = replace(self.settings.placement, repack=False)
        return self._stack.enter_context(placement.load(self.source.path))

    def close(self) -> None:
        """Free the models and what was computed with them."""
        del self._scorer
        self.values.clear()
        self._stack.close()

    @property
    def model(self) -> Model:
        """The reference."""
        return self.models[0]

    @property
    def costs(self) -> Costs:
        """What was spent so far."""
        return replace(self._costs, quantize_s=self.values.seconds)

    def probe(self, types: Types, chunk: Any) -> Probe:
        """The store's name of a measurement."""
        changed = {name: type.name for name, type in self.values.changed(types).items()}
        tokens = hashlib.sha256(np.ascontiguousarray(chunk, "<i4").tobytes()).hexdigest()
        return Probe(
            self._fingerprint,
            changed,
            self.values.matrix,
            tokens,
            self.settings.ctx,
            self.values.method,
        )

    def measure(
        self,
        candidates: Sequence[Types],
        part: Part,
        *,
        positions: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> list[Measurement]:
        """Every candidate on every chunk of a part; what the store has is not computed again.

        candidates: the tensors that differ from the reference, with their types. positions: keep
        the KLD of every position (then everything is computed).
        """
        probes = [[self.probe(types, chunk) for chunk in part.tokens] for types in candidates]
        keys = [[probe.key for probe in row] for row in probes]
        found = {} if positions else self.store.find([key for row in keys for key in row])
        self._costs.stored_passes += len(found)
        todo = [i for i, row in enumerate(keys) if any(key not in found for key in row)]
        by_position: dict[int, Any] = {}
        done = 0
        for batch in self._batches([(i, candidates[i]) for i in todo]):
            share = (done, len(batch), max(1, len(todo)))
            for i, (scores, values) in zip(
                batch, self._compute([candidates[i] for i in batch], part, share, progress),
                strict=True,
            ):  # fmt: skip
                self.store.add(zip(probes[i], scores, strict=True))
                found.update(zip(keys[i], scores, strict=True))
                by_position[i] = values if positions else None
            done += len(batch)
        return [
            Measurement(tuple(found[key] for key in row), by_position.get(i))
            for i, row in enumerate(keys)
        ]

    def _batches(self, candidates: Sequence[tuple[int, Types]]) -> list[list[int]]:
        batches: list[list[int]] = []
        n_bytes = 0
        for i, types in candidates:
            size = sum(
                type.tensor_bytes(self.values.info(name).shape) for name, type in types.items()
            )
            if not batches or n_bytes + size > BATCH_BYTES or len(batches[-1]) >= 64:
                batches.append([])
                n_bytes = 0
            batches[-1].append(i)
            n_bytes += size
        return batches

    def _compute(
        self,
        candidates: Sequence[Types],
        part: Part,
        share: tuple[int, int, int],
        progress: Callable[[float], None] | None,
    ) -> list[tuple[list[Scores], Any]]:
        jobs = [(self.values.of(types), self._first_layer(types)) for types in candidates]
        begin = time.monotonic()
        done, n, total = share
        run_interruptible(
            lambda: self._scorer.run(np.ascontiguousarray(part.tokens.reshape(-1)), jobs),
            self._stop.set,
            None
            if progress is None
            else lambda: progress((done + n * self._scorer.progress) / total),
        )
        self._costs.forward_s += time.monotonic() - begin
        self._costs.forward_passes += part.n_chunks * (len(candidates) + 1)
        reference = self._scorer.reference_nll.reshape(part.n_chunks, -1)
        return [_summed(scores, reference) for scores in self._scorer.scores]

    def _first_layer(self, types: Types) -> int:
        """The first layer that computes something else than the reference's."""
        first = self.n_layer
        for name in types:
            layer = layer_number(name)
            if layer is None:
                layer = self.n_layer if name in ("output.weight", "output_norm.weight") else 0
            first = min(first, layer)
        return first


def _summed(scores: Mapping[str, Any], reference: Any) -> tuple[list[Scores], Any]:
    shape = reference.shape
    kld, nll = scores["kld"].reshape(shape), scores["nll"].reshape(shape)
    finite = scores["is_finite"].reshape(shape).astype(bool)
    same = scores["is_same_top"].reshape(shape)
    rows = []
    for i in range(shape[0]):
        keep = finite[i]
        # A candidate that gives no number at all is as bad as can be, not free of error.
        lost = float(np.inf) if not keep.all() else 0.0
        rows.append(
            Scores(
                n=int(shape[1]),
                kld=float(kld[i][keep].sum()) + lost,
                nll=float(nll[i][keep].sum()) + lost,
                reference_nll=float(reference[i].sum()),
                same_top=int(same[i].sum()),
            )
        )
    return rows, kld
