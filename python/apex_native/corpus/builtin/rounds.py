"""Drawing so that nothing comes again before everything else has come."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["rounds"]

_T = TypeVar("_T")


def rounds(items: Sequence[_T], rng: random.Random) -> Iterator[_T]:
    """All items in random order, then all in another order, without end."""
    while True:
        yield from rng.sample(items, len(items))
