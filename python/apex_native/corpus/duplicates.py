"""Near-duplicates: documents that share most of their words in the same order.

Similarity is 2·LCS/(n + m) over the words of two documents (the normalised insertion-deletion
similarity): 1 for the same words in the same order, 0 for no common word. It is computed exactly
by rapidfuzz's bit-parallel kernel, about n·m/64 steps for a pair; sketches as MinHash pay off for
millions of documents, and a calibration text has hundreds.
"""

from __future__ import annotations

import re
import zlib

from rapidfuzz import process
from rapidfuzz.distance import Indel

__all__ = ["NearDuplicates"]

_WORD = re.compile(r"\w+|[^\w\s]")

_ALPHABET = 0x10FFFF - 0x800
"""Code points that are no surrogates."""


class NearDuplicates:
    """Remembers documents and recognises those that are too much like one of them."""

    def __init__(self, max_similarity: float) -> None:
        """Documents whose similarity is max_similarity or more are duplicates; above 1, none is."""
        self._limit = max_similarity
        self._known: list[str] = []

    def __len__(self) -> int:
        return len(self._known)

    def is_known(self, words: str) -> bool:
        """True if a document like this one was added."""
        if self._limit > 1 or not self._known:
            return False
        found = process.extractOne(
            _as_characters(words),
            self._known,
            scorer=Indel.normalized_similarity,
            score_cutoff=self._limit,
        )
        return found is not None

    def add(self, words: str) -> None:
        """Remember a document."""
        self._known.append(_as_characters(words))


def _as_characters(text: str) -> str:
    """One character for each word, so that rapidfuzz compares words as fast as it does letters.

    Two different words meet in one character once in a million pairs.
    """
    codes = (zlib.crc32(word.encode()) % _ALPHABET for word in _WORD.findall(text))
    return "".join(chr(code if code < 0xD800 else code + 0x800) for code in codes)
