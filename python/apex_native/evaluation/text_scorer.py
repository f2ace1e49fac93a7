"""Candidate after candidate against one reference on one text: for searches and sweeps."""

from __future__ import annotations

import os
from collections.abc import Callable

from apex_native.closable import Closable
from apex_native.engine import Placement
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.reference import open_reference, require_same_tokenizer
from apex_native.evaluation.divergence.scores import CandidateRun, ScoreRun, TokenScores
from apex_native.evaluation.divergence.shape import Workload, choose_shape
from apex_native.evaluation.divergence.stored_reference import StoredReference
from apex_native.evaluation.divergence.text import Text, read_text
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import AnyModel
from apex_native.evaluation.request import as_model
from apex_native.results import TextData

__all__ = ["TextScorer"]


class TextScorer(Closable):
    """A reference computed once; any number of candidates is then scored against it.

        with TextScorer("bf16.gguf", "wiki.txt", chunks=16) as scorer:
            kld = {plan.tier: scorer.score(PlannedModel("bf16.gguf", plan)).kld.mean()
                   for plan in plans}

    One model is in memory at a time; the reference is kept as hidden states (`StoredReference`).
    Numbers are those of `apex_native.evaluate` with two_pass. data says what the text is,
    n_scored how many positions of each chunk count; reference has the reference's own positions
    once a candidate was scored.
    """

    def __init__(
        self,
        reference: AnyModel,
        text: str | os.PathLike[str] | Text,
        *,
        ctx: int = 512,
        chunks: int | None = None,
        parse_special: bool = False,
        router: bool = False,
        n_ubatch: int | None = None,
        placement: Placement | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Compute the reference; arguments and errors are those of `apex_native.evaluate`.

        placement: of all models that have none of their own. progress gets the share that is done.
        """
        self._placement = placement
        tested = as_model(reference, placement=placement)
        with ModelPool() as pool:
            opened = open_reference(tested, pool)
            model = opened.model
            assert model is not None
            options = TextOptions(ctx, chunks, parse_special, n_ubatch, router=router)
            content = text if isinstance(text, Text) else read_text(text)
            cut = opened.chunks(content, model, options)
            self.data: TextData = cut.data
            self.n_scored = cut.n_scored
            self.reference: TokenScores | None = None
            self._path, self._tokenizer = model.path, model.fingerprint
            work = Workload(
                ctx=ctx,
                n_chunks=cut.data.n_chunks,
                n_vocab=model.n_vocab,
                n_models=2,
                n_threads=model.n_threads,
                on_gpu=tested.placement.on_gpu,
            )
            run = ScoreRun(
                reference=opened,
                candidates=(),
                tokens=cut.tokens,
                ctx=ctx,
                shape=choose_shape(work, n_ubatch),
                with_routes=router,
            )
            self._stored: StoredReference | None = StoredReference(run, progress)

    def close(self) -> None:
        """Free the reference's states; `score` then raises ValueError."""
        self._stored = None

    def score(self, candidate: AnyModel) -> TokenScores:
        """Every scored position of a candidate: nll, kld and is_same_top, chunk after chunk.

        Raises DataError for another tokenizer, and what opening the candidate raises.
        """
        if self._stored is None:
            raise ValueError("this scorer was closed")
        tested = as_model(candidate, placement=self._placement)
        with tested.source.open(tested.placement) as model:
            require_same_tokenizer(self._tokenizer, self._path, model)
            run = CandidateRun(model, tested.type_k, tested.type_v)
            self.reference, scores = self._stored.score(run)
        return scores
