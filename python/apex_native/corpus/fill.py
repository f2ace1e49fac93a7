"""Drawing documents from a source until its share of the tokens is there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from apex_native.corpus.chat import ChatRenderer, RenderError
from apex_native.corpus.document import Document
from apex_native.corpus.duplicates import NearDuplicates
from apex_native.corpus.protocols import Tokenizer

__all__ = ["N_CANDIDATES", "Fill", "Piece", "Preparation", "interleave"]

N_CANDIDATES = 40
"""Documents too long for what is left that are looked at before the best of them is taken."""

PATIENCE = 60
"""Unusable documents in a row after which a source counts as exhausted."""

CLOSE_ENOUGH = 0.01
"""A source is done when less than this part of its tokens is missing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A document as it will stand in the text."""

    text: str
    n_tokens: int
    words: str


@dataclass
class Fill:
    """What one source gave."""

    wanted: int
    pieces: list[Piece] = field(default_factory=list)
    n_tokens: int = 0
    dropped_duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    exhausted: str = ""
    """Why there is no more; empty where there is."""
    shortest: int = 0
    """Where not one document fits: the tokens of the shortest that was seen."""
    n_candidates: int = N_CANDIDATES
    """As the constant says; fewer where a document takes long to make."""

    def draw(
        self,
        documents: Iterator[Document],
        prepare: Preparation,
        on_piece: Callable[[Fill], None],
    ) -> None:
        """Take documents until `wanted` tokens are there, as close as whole documents come."""
        too_long: list[Piece] = []
        misses = 0
        while len(too_long) < self.n_candidates and self.missing > CLOSE_ENOUGH * self.wanted:
            document = next(documents, None)
            if document is None:
                self.exhausted = "there is no more"
                break
            piece = self._prepared(document, prepare)
            misses = misses + 1 if piece is None else 0
            if misses >= PATIENCE:
                self.exhausted = f"the last {PATIENCE} documents were unusable or near-duplicates"
                break
            if piece is None:
                continue
            fitting = self._fitting(document, piece, prepare)
            if fitting is None:
                too_long.append(piece)
                continue
            self._accept(fitting, prepare)
            on_piece(self)
        if too_long:
            self.exhausted = ""  # there is more, only too long
        best = min(too_long, key=lambda piece: piece.n_tokens, default=None)
        # Too much by less than is missing is nearer to the share.
        if best is not None and best.n_tokens - self.missing < self.missing:
            self._accept(best, prepare)
            on_piece(self)
        elif best is not None and not self.pieces:
            self.shortest = best.n_tokens

    @property
    def missing(self) -> int:
        """Tokens that are still to come, below 0 if there are too many."""
        return self.wanted - self.n_tokens

    def _prepared(self, document: Document, prepare: Preparation) -> Piece | None:
        try:
            piece = prepare.piece(document)
        except RenderError as error:
            self.refused[str(error)] += 1
            return None
        if piece is not None and prepare.known.is_known(piece.words):
            self.dropped_duplicates += 1
            return None
        return piece

    def _fitting(self, document: Document, piece: Piece, prepare: Preparation) -> Piece | None:
        """The piece if there is room for it, else the most of it that there is room for."""
        if piece.n_tokens <= self.missing:
            return piece
        for form in document.shorter_forms():
            shorter = self._prepared(form, prepare)
            if shorter is not None and shorter.n_tokens <= self.missing:
                return shorter
        return None

    def _accept(self, piece: Piece, prepare: Preparation) -> None:
        prepare.known.add(piece.words)
        self.pieces.append(piece)
        self.n_tokens += piece.n_tokens


class Preparation:
    """From documents to pieces: rendering, counting, and what was there before."""

    def __init__(self, renderer: ChatRenderer, tokenizer: Tokenizer, max_similarity: float) -> None:
        """Nothing is known yet."""
        self._renderer = renderer
        self._tokenizer = tokenizer
        self.known = NearDuplicates(max_similarity)

    def piece(self, document: Document) -> Piece | None:
        """A document as it will stand in the text; None if it says nothing."""
        text = self._renderer.render(document)
        if not text.strip():
            return None
        if not document.messages:
            # A blank line between texts; conversations have the marks of their template.
            text = text.strip("\n") + "\n\n"
        tokens = self._tokenizer.tokenize(text, add_special=False, parse_special=True)
        return Piece(text, len(tokens), document.words)


def interleave(fills: list[list[Piece]], rng: random.Random) -> list[Piece]:
    """Mix the pieces of several sources so that every beginning of the text has its shares.

    Each piece gets a place between 0 and 1: where it lies among its source's tokens, shifted at
    random within its own length. Sorting by place keeps each source spread over the whole text.
    """
    placed: list[tuple[float, int, int, Piece]] = []
    for source, pieces in enumerate(fills):
        pieces = list(pieces)
        rng.shuffle(pieces)
        total = sum(piece.n_tokens for piece in pieces)
        before = 0
        for index, piece in enumerate(pieces):
            place = (before + rng.random() * piece.n_tokens) / max(total, 1)
            placed.append((place, source, index, piece))
            before += piece.n_tokens
    return [piece for *_, piece in sorted(placed, key=lambda entry: entry[:3])]
