"""The reference of a worker: loaded once, and kept as hidden states of the blocks it was asked for.

Where the reference and a candidate do not fit a GPU together, the states of all blocks of a text
are computed before the reference makes room.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex_native.engine import Model, Placement
from apex_native.evaluation.divergence.memory import spare_gpu_bytes
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.scores import (
    CandidateRun,
    ScoreRun,
    TokenScores,
)
from apex_native.evaluation.divergence.shape import Workload, choose_shape
from apex_native.evaluation.divergence.stored_reference import StoredReference
from apex_native.gpu_layers import CONTEXT_BYTES
from apex_native.sweeps.jobs import Block

__all__ = ["ReferenceStates"]


class ReferenceStates:
    """One worker's reference; `close` frees it."""

    def __init__(self, path: Path, placement: Placement, largest_candidate: int = 0) -> None:
        """Nothing is loaded yet. largest_candidate: bytes that must fit beside it to keep it."""
        self._path, self._placement = path, placement
        self._largest = largest_candidate
        self._model: Model | None = None
        self._states: dict[tuple[Block, bool], StoredReference] = {}
        self.tokenizer = ""
        self.n_loads = 0

    def of(self, block: Block, *, router: bool, siblings: Sequence[Block] = ()) -> StoredReference:
        """The states of a block; siblings are computed with it if the reference cannot stay.

        Raises ModelError, GgufError, OutputError.
        """
        if (block, router) not in self._states:
            self._compute(block, router)
            if not self._can_stay():
                for other in siblings:
                    if (other, router) not in self._states:
                        self._compute(other, router)
                self._release()
        return self._states[block, router]

    def again(self, block: Block, n_positions: int) -> tuple[TokenScores, TokenScores]:
        """The reference, and the reference a few positions at a time, for the noise floor."""
        run = self._run(block, router=False)
        shape = run.shape
        noise = CandidateRun(self.model, n_parts=-(-shape.n_positions // n_positions))
        return StoredReference(run).score(noise)

    @property
    def model(self) -> Model:
        """The loaded reference."""
        if self._model is None:
            self._model = self._placement.load(self._path)
            self.tokenizer = self._model.fingerprint
            self.n_loads += 1
        return self._model

    def make_room(self) -> None:
        """Free the model, not the states, if a candidate does not fit beside it."""
        if self._model is not None and not self._can_stay():
            self._release()

    def close(self) -> None:
        """Free everything."""
        self._release()
        self._states.clear()

    def _compute(self, block: Block, router: bool) -> None:
        self._states[block, router] = StoredReference(self._run(block, router=router))

    def _run(self, block: Block, *, router: bool) -> ScoreRun:
        model = self.model
        work = Workload(
            ctx=block.ctx,
            n_chunks=block.n_chunks,
            n_vocab=model.n_vocab,
            n_models=2,
            n_threads=model.n_threads,
            on_gpu=self._placement.on_gpu,
        )
        return ScoreRun(
            reference=OpenReference(model=model),
            candidates=(),
            tokens=block.array,
            ctx=block.ctx,
            shape=choose_shape(work, block.n_ubatch),
            with_routes=router,
        )

    def _can_stay(self) -> bool:
        """On a CPU its file is mapped: the system drops pages that nobody reads."""
        if not self._placement.on_gpu:
            return True
        return spare_gpu_bytes(self._largest) > CONTEXT_BYTES

    def _release(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None
