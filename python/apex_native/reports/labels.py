"""Short names: what all candidates begin with says nothing, and takes the room of what differs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apex_native.results import Results

__all__ = ["ShortNames", "short_names"]

_PART_OF_A_TYPE = re.compile(r"(?:[01KML]|X{0,2}S|XL|NL)(?![A-Za-z0-9])")


class ShortNames:
    """Names without .gguf and without what all of them begin with; every one stays unique."""

    def __init__(self, names: Sequence[str], others: Sequence[str] = ()) -> None:
        """The beginning is that of ``names``; ``others`` (a reference) lose it where they have it.

        Names that would become the same keep all they have.
        """
        self.beginning = _common_beginning([_stem(name) for name in names])
        every = [*others, *names]
        short = [_stem(name).removeprefix(self.beginning) or _stem(name) for name in every]
        self._short = {
            name: text if short.count(text) == 1 else name
            for name, text in zip(every, short, strict=True)
        }

    def __getitem__(self, name: str) -> str:
        """The short name; a name that was not among those given comes back as it is."""
        return self._short.get(name, name)

    @property
    def note(self) -> str:
        """A sentence that says what the names lack; empty where they lack nothing."""
        return f"Names without the common “{self.beginning}”." if self.beginning else ""


def short_names(results: Results) -> ShortNames:
    """Of the candidates of one evaluation, and its reference."""
    reference = () if results.reference is None else (results.reference.name,)
    return ShortNames([candidate.name for candidate in results.candidates], reference)


def _stem(name: str) -> str:
    return name.removesuffix(".gguf") or name


def _common_beginning(stems: Sequence[str]) -> str:
    """Whole words only, and never all of a name."""
    if len(stems) < 2:
        return ""
    first, last = min(stems), max(stems)  # what these share, all between them share
    pairs = enumerate(zip(first, last, strict=False))
    n = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
    ends = (match.end() for match in re.finditer(r"[-_. /]", first[:n]))
    whole = [end for end in ends if not any(_cuts_a_type(stem, end) for stem in stems)]
    end = max(whole, default=0)
    return first[:end] if end < len(first) else ""


def _cuts_a_type(stem: str, end: int) -> bool:
    """True between Q4_K_ and M: the rest alone would not be read as a type."""
    return stem[end - 1] == "_" and _PART_OF_A_TYPE.match(stem, end) is not None
