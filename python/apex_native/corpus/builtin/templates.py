"""Templates with slots: the small language in which the built-in text is written.

A slot is written between « and », which neither code nor prose of ours uses otherwise:

    «city»         a word of the pool `city`; the same word wherever the document says «city»
    «city2»        another word of that pool (any digits may follow)
    «city^»        the same with a capital
    «n:3-20»       a whole number from 3 to 20, called n from here on
    «=n*2+1»       arithmetic on numbers so named: + - * // %
    «a|b|c»        one of these; they may hold slots

Lines may be chosen too (not in code):

    ~ text         of neighbouring lines that begin so, one is kept
    + text         of neighbouring lines that begin so, at least two are kept, in their order
    ? text         kept half of the time
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import groupby

__all__ = ["Filler", "Pools", "data_text", "load_pools", "load_sections"]

Pools = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"«([^«»]*)»")
_NUMBERED = re.compile(r"^\d+\. ")
_RANGE = re.compile(r"(\w+):(\d+)-(\d+)")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Filler:
    """Fills the templates of one document: what a slot was given once, it keeps."""

    def __init__(self, rng: random.Random, pools: Pools) -> None:
        """Draw from rng and pools; nothing is bound yet."""
        self._rng = rng
        self._pools = pools
        self.bound: dict[str, str | int] = {}
        self._ranges: dict[str, tuple[int, int]] = {}

    def declare(self, document: str) -> None:
        """Let numbers be named before, or without, the place that gives their range.

        A line that is left out may hold it.
        """
        for name, low, high in _RANGE.findall(document):
            self._ranges.setdefault(name, (int(low), int(high)))

    def fill(self, template: str) -> str:
        """The template with every slot filled, innermost first."""
        while "«" in template:
            template, n_filled = _SLOT.subn(lambda match: str(self.value(match[1])), template)
            if not n_filled:
                raise ValueError(f"unbalanced slot in {template!r}")
        return template

    def fill_lines(self, template: str) -> str:
        """Choose among marked lines, then fill the slots."""
        kept: list[str] = []
        for mark, group in groupby(template.split("\n"), key=_mark):
            lines = [line[2:] if mark else line for line in group]
            kept += self._chosen(mark, lines)
        return self.fill("\n".join(_renumbered(kept)))

    def value(self, slot: str) -> str | int:
        """What a slot stands for; numbers stay numbers."""
        if "|" in slot:
            return self._rng.choice(slot.split("|"))
        if slot.startswith("="):
            return self._computed(ast.parse(slot[1:], mode="eval").body)
        if slot.endswith("^"):
            return str(self.value(slot[:-1])).capitalize()
        if slot in self.bound:
            return self.bound[slot]
        ranged = _RANGE.fullmatch(slot)
        if ranged is not None:
            return self._number(ranged[1], int(ranged[2]), int(ranged[3]))
        if slot in self._ranges:
            return self._number(slot, *self._ranges[slot])
        self.bound[slot] = self._draw(slot)
        return self.bound[slot]

    def _number(self, name: str, low: int, high: int) -> int:
        # Said twice with a range, in two lines of which both were kept: the first one holds.
        return int(self.bound.setdefault(name, self._rng.randint(low, high)))

    def _computed(self, node: ast.expr) -> int:
        """Integer arithmetic on named numbers, nothing else: templates are data."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return int(self.value(node.id))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](self._computed(node.left), self._computed(node.right))
        raise ValueError(f"only whole numbers and + - * // % here, found {ast.unparse(node)}")

    def _draw(self, slot: str) -> str:
        pool = self._pools[slot.rstrip("0123456789")]
        taken = set(self.bound.values())
        fresh = [word for word in pool if word not in taken]
        return self._rng.choice(fresh or list(pool))

    def _chosen(self, mark: str, lines: list[str]) -> list[str]:
        if mark == "~":
            return [self._rng.choice(lines)]
        if mark == "+":
            n_kept = self._rng.randint(min(2, len(lines)), len(lines))
            return [lines[i] for i in sorted(self._rng.sample(range(len(lines)), n_kept))]
        if mark == "?":
            return [line for line in lines if self._rng.random() < 0.5]
        return lines


def _renumbered(lines: list[str]) -> list[str]:
    """Numbered lists counted anew: some of their lines were left out."""
    number, counted = 0, []
    for line in lines:
        number = number + 1 if _NUMBERED.match(line) else 0
        counted.append(_NUMBERED.sub(f"{number}. ", line) if number else line)
    return counted


def _mark(line: str) -> str:
    return line[0] if line[:2] in ("~ ", "+ ", "? ") else ""


@cache
def data_text(name: str) -> str:
    """A file of the built-in data."""
    return (resources.files("apex_native.corpus.builtin") / "data" / name).read_text("utf-8")


@cache
def load_sections(name: str) -> dict[str, str]:
    """The parts of a data file that lines ``=== title`` begin; titles are unique."""
    sections: dict[str, str] = {}
    for part in re.split(r"^=== ", data_text(name), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if title in sections:
            raise ValueError(f"{name}: '{title}' comes twice")
        sections[title] = body.strip("\n")
    return sections


@cache
def load_pools(name: str) -> Pools:
    """Words by pool: each section holds words between commas."""
    return {
        title: [word.strip() for word in body.replace("\n", " ").split(",")]
        for title, body in load_sections(name).items()
    }
