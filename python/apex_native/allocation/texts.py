"""The text of a search: domains, cut into chunks, in three parts that never mix."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.engine import Model, Tokens
from apex_native.errors import DataError

__all__ = ["DomainText", "Part", "SearchText", "TextSizes", "split_texts"]

MIN_CHUNKS = 8
"""In all: below, there is nothing to fit, choose and verify on."""


@dataclass(frozen=True, slots=True)
class DomainText:
    """A text of one kind, and the name reports give it."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class TextSizes:
    """Chunks each part has at most, all domains together.

    more: of the verify part's text, read where a verdict is open without them.
    """

    fit: int = 12
    choose: int = 32
    verify: int = 32
    more: int = 224


@dataclass(frozen=True, slots=True)
class Part:
    """Chunks of one purpose: tokens int32 (n_chunks, ctx), and the domain of each."""

    tokens: Tokens
    domains: tuple[int, ...]

    @property
    def n_chunks(self) -> int:
        """How many chunks."""
        return len(self.domains)

    def first(self, n: int) -> Part:
        """The first chunks; domains take turns, so they stay balanced."""
        return Part(self.tokens[:n], self.domains[:n])

    def after(self, n: int) -> Part:
        """The others."""
        return Part(self.tokens[n:], self.domains[n:])


@dataclass(frozen=True, slots=True)
class SearchText:
    """Names of the domains, and the parts; reserve is what more there is to verify on."""

    names: tuple[str, ...]
    fit: Part
    choose: Part
    verify: Part
    reserve: Part
    sha256: str


def split_texts(
    texts: Sequence[DomainText], model: Model, *, ctx: int, sizes: TextSizes, seed: int
) -> SearchText:
    """Cut every domain into chunks of ctx tokens and deal them out to the parts.

    Special tokens that a text spells are parsed. A domain's text is cut in three consecutive
    blocks, one for each part, in proportion to their sizes: no part sees the neighbourhood of
    another's chunks but at two places. Within a block, chunks are drawn at random by seed, the same
    number from every domain as far as they reach. Raises DataError where there are too few chunks.
    """
    if not texts:
        raise DataError("a search needs a text; give `texts`")
    chunks = [_chunks(text, model, ctx) for text in texts]
    total = sum(len(some) for some in chunks)
    if total < MIN_CHUNKS:
        found = ", ".join(f"{t.name} {len(c)}" for t, c in zip(texts, chunks, strict=True))
        raise DataError(
            f"the text has {total} chunks of {ctx} tokens ({found}); a search fits, chooses and "
            f"verifies on different ones and needs at least {MIN_CHUNKS}; give more text"
        )
    wanted = (sizes.fit, sizes.choose, sizes.verify)
    rng = np.random.default_rng(seed)
    blocks = [_blocks(some, wanted) for some in chunks]
    taken = (sizes.fit, sizes.choose, sizes.verify + sizes.more)
    fit, choose, verified = (
        _deal([block[i] for block in blocks], taken[i], int(rng.integers(2**31)), ctx)
        for i in range(3)
    )
    digest = hashlib.sha256()
    for part in (fit, choose, verified):
        digest.update(np.ascontiguousarray(part.tokens).tobytes())
    verify, reserve = verified.first(sizes.verify), verified.after(sizes.verify)
    names = tuple(text.name for text in texts)
    return SearchText(names, fit, choose, verify, reserve, digest.hexdigest())


def _chunks(text: DomainText, model: Model, ctx: int) -> Tokens:
    tokens = model.tokenize(text.content, add_special=True, parse_special=True)
    n = len(tokens) // ctx
    return tokens[: n * ctx].reshape(n, ctx)


def _blocks(chunks: Tokens, wanted: tuple[int, int, int]) -> list[Tokens]:
    """Consecutive thirds, in proportion to what the parts want."""
    n = len(chunks)
    ends = [round(n * sum(wanted[: i + 1]) / sum(wanted)) for i in range(3)]
    begins = [0, *ends[:-1]]
    return [chunks[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _deal(blocks: list[Tokens], n_wanted: int, seed: int, ctx: int) -> Part:
    """Chunks of all domains in turn."""
    rng = np.random.default_rng(seed)
    orders = [list(rng.permutation(len(block))) for block in blocks]
    taken: list[tuple[int, int]] = []
    while len(taken) < n_wanted and any(orders):
        for domain, order in enumerate(orders):
            if order and len(taken) < n_wanted:
                taken.append((domain, order.pop(0)))
    if not taken:
        return Part(np.zeros((0, ctx), np.int32), ())
    tokens = np.stack([blocks[domain][i] for domain, i in taken])
    return Part(np.ascontiguousarray(tokens, np.int32), tuple(domain for domain, _ in taken))
