"""Source files in Python, JavaScript, C and Rust, put together from functions and types.

A section of a data file is one function or type with names and numbers as slots; lines that begin
with ``@use`` are what it needs at the top of the file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from apex_native.corpus.builtin.rounds import rounds
from apex_native.corpus.builtin.templates import Filler, load_pools, load_sections
from apex_native.corpus.document import Document

__all__ = ["code_documents"]

_USE = "@use "


@dataclass(frozen=True, slots=True)
class _Language:
    """How a file of a language begins, and what stands between its parts."""

    heading: str
    gap: str = "\n\n"


_LANGUAGES = {
    "python": _Language(
        '"""«verb^» «noun»s of the «module» service: «attr», «field» and more."""', "\n\n\n"
    ),
    "javascript": _Language("// «module»/«noun».js: «verb» «noun»s, «field» in «unit»."),
    "c": _Language("/* «module»_«noun».c: «verb» «noun»s, «field» in «unit» */"),
    "rust": _Language("//! «module»: «verb» «noun»s. «field^» is in «unit»."),
}

_SIZES = (1, 2, 2, 3)
"""Parts of a file, each as likely: real files differ in length."""


def code_documents(language: str, rng: random.Random) -> Iterator[Document]:
    """Source files without end."""
    sections = rounds(list(load_sections(f"code_{language}.txt").values()), rng)
    pools = load_pools("pools_code.txt")
    style = _LANGUAGES[language]
    while True:
        filler = Filler(rng, pools)
        parts = [filler.fill(style.heading)]
        uses: set[str] = set()
        bodies = []
        for section in islice(sections, rng.choice(_SIZES)):
            # Its own names, so that parts of one file do not define the same thing.
            lines = Filler(rng, pools).fill(section).split("\n")
            uses.update(line.removeprefix(_USE) for line in lines if line.startswith(_USE))
            bodies.append("\n".join(line for line in lines if not line.startswith(_USE)))
        if uses:
            parts.append("\n".join(sorted(uses)))
        yield Document(text="\n\n".join(parts) + style.gap + style.gap.join(bodies) + "\n")
