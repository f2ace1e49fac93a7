r"""``REGEX=TYPE`` rules in llama-quantize's syntax, matched as ``std::regex`` would match them.

llama-quantize lower-cases the expression, compiles it as ECMAScript and searches it anywhere in
the tensor name (``regex_search``); the first rule that matches decides. Python's ``re`` reads
almost the same language. Where the two differ the expression is translated if that is exact and
refused otherwise, so that a rule accepted here means the same there:

* translated: ``.`` (ECMAScript's excludes ``\r`` too), ``$`` (Python's also matches before a
  final newline), POSIX classes such as ``[[:digit:]]``, and characters inside ``[...]`` for which
  Python reserves a meaning; patterns and names are matched as bytes, which makes ``\d``,
  ``\w``, ``\s`` ASCII as in C++.
* refused: everything only Python has (look-behind, inline flags, named groups, possessive
  quantifiers, ``\A``, ``\Z``), back-references (unset groups differ), ``\D \S \W \B`` (the
  lower-casing would turn them into their opposite), numeric, ``\c``, ``\u`` and ``\x`` escapes,
  a literal ``{``, ``[]`` and ``[^]``, and quantified assertions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from apex_native.errors import PlanError
from apex_native.types import GgmlType

__all__ = ["TensorTypeRule", "first_match", "parse_rule", "parse_rule_file"]


@dataclass(frozen=True, slots=True)
class TensorTypeRule:
    """One rule; ``text`` is what the user wrote, ``pattern`` the lower-cased expression."""

    text: str
    pattern: str
    type: GgmlType
    _compiled: re.Pattern[bytes] = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """True if the expression is found anywhere in the name (case counts)."""
        return self._compiled.search(name.encode("utf-8", "surrogateescape")) is not None


def parse_rule(text: str) -> TensorTypeRule:
    """Parse ``REGEX=TYPE``: split at the first ``=``, type name in any case.

    Raises PlanError when a part is missing, the type is unknown or cannot be written, or the
    expression is not one both ECMAScript and Python read the same way.
    """
    pattern, separator, type_name = text.partition("=")
    if not separator or not pattern or not type_name:
        raise PlanError(f"tensor-type rule '{text}' must have the form REGEX=TYPE")
    try:
        target = GgmlType.parse(type_name)
    except ValueError as error:
        raise PlanError(f"tensor-type rule '{text}': {error}") from error
    if not target.is_target:
        raise PlanError(f"tensor-type rule '{text}': weights cannot be written as {target}")
    return TensorTypeRule(text, _lower(pattern), target, _compile(text, pattern))


def parse_rule_file(text: str) -> tuple[str, ...]:
    """The rules of a llama-quantize ``--tensor-type-file``: words separated by white space."""
    return tuple(text.split())


def first_match(rules: Iterable[TensorTypeRule], name: str) -> TensorTypeRule | None:
    """The first rule that matches, None if none does."""
    return next((rule for rule in rules if rule.matches(name)), None)


_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r"\ \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}

_TOKEN = re.compile(
    r"""
      (?P<escape>\\.)
    | (?P<group>\((?:\?.?)?)
    | (?P<close>\))
    | (?P<set>\[)
    | (?P<repeat>[*+?]|\{[0-9]+(?:,[0-9]*)?\})
    | (?P<anchor>[\^$])
    | (?P<other>[^\\])
    """,
    re.VERBOSE | re.DOTALL,
)
_SET_ITEM = re.compile(
    r"\[:(?P<posix>\w*):\]|(?P<reserved>\[[.=]|--)|(?P<escape>\\.)|(?P<other>.)", re.S
)


def _lower(pattern: str) -> str:
    """C's ``tolower`` in the C locale: ASCII letters only."""
    return pattern.translate(_ASCII_LOWER)


_SAME_ESCAPES = "dswnrtfv"
"""Escapes with one meaning in both languages, inside and outside brackets."""


class _Token(Enum):
    """What a quantifier finds before it."""

    ATOM = auto()
    REPEAT = auto()
    NOT_REPEATABLE = auto()


class _Translator:
    """Rewrites one ECMAScript expression for Python's ``re``, or says why it cannot."""

    def __init__(self, rule: str, pattern: str) -> None:
        self._rule = rule
        self._pattern = pattern
        self._out: list[str] = []
        self._previous = _Token.NOT_REPEATABLE
        self._open_groups: list[str] = []

    def translate(self) -> str:
        position = 0
        while position < len(self._pattern):
            match = _TOKEN.match(self._pattern, position)
            if match is None or match.lastgroup is None:
                raise self._refused("a backslash at the end")
            if match.lastgroup == "set":
                position = self._set(position + 1)
                continue
            getattr(self, "_" + match.lastgroup)(match.group())
            position = match.end()
        return "".join(self._out)

    def _refused(self, what: str) -> PlanError:
        return PlanError(
            f"tensor-type rule '{self._rule}': {what} is not read the same way by llama-quantize "
            "and by this program; write the expression without it"
        )

    def _emit(self, text: str, token: _Token) -> None:
        self._out.append(text)
        self._previous = token

    def _escape(self, text: str) -> None:
        letter = text[1]
        if letter in "DSWB":
            raise self._refused(f"{text} (llama-quantize lower-cases it to {text.lower()})")
        if letter in _SAME_ESCAPES:
            self._emit(text, _Token.ATOM)
        elif letter == "b":
            self._emit(text, _Token.NOT_REPEATABLE)
        elif letter.isalnum():
            raise self._refused(text)
        else:
            self._emit(re.escape(letter), _Token.ATOM)

    def _group(self, text: str) -> None:
        # A look-ahead (?=...) cannot get here: the rule is split at its first =.
        if text not in ("(", "(?:", "(?!"):
            raise self._refused(text)
        self._open_groups.append(text)
        self._emit(text, _Token.NOT_REPEATABLE)

    def _close(self, text: str) -> None:
        if not self._open_groups:
            raise self._refused("an unmatched )")
        is_assertion = self._open_groups.pop() == "(?!"
        self._emit(text, _Token.NOT_REPEATABLE if is_assertion else _Token.ATOM)

    def _repeat(self, text: str) -> None:
        is_lazy_mark = text == "?" and self._previous is _Token.REPEAT
        if self._previous is not _Token.ATOM and not is_lazy_mark:
            raise self._refused(f"{text} with nothing to repeat")
        self._emit(text, _Token.NOT_REPEATABLE if is_lazy_mark else _Token.REPEAT)

    def _anchor(self, text: str) -> None:
        self._emit(r"\Z" if text == "$" else text, _Token.NOT_REPEATABLE)

    def _other(self, text: str) -> None:
        if text == "{":
            raise self._refused("a { that is no repeat count")
        if text == ".":
            self._emit(r"[^\n\r]", _Token.ATOM)
        elif text == "|":
            self._emit(text, _Token.NOT_REPEATABLE)
        else:
            self._emit(re.escape(_lower(text)), _Token.ATOM)

    def _set(self, position: int) -> int:
        """Translate a bracket expression that starts after its ``[``; returns its end."""
        parts = ["["]
        if self._pattern.startswith("^", position):
            parts.append("^")
            position += 1
        if self._pattern.startswith("]", position):
            raise self._refused("an empty bracket expression")
        while not self._pattern.startswith("]", position):
            match = _SET_ITEM.match(self._pattern, position)
            if match is None:
                raise self._refused("a [ without its ]")
            parts.append(self._set_item(match))
            position = match.end()
        self._emit("".join([*parts, "]"]), _Token.ATOM)
        return position + 1

    def _set_item(self, match: re.Match[str]) -> str:
        text = match.group()
        if match["posix"] is not None:
            if match["posix"].lower() not in _POSIX_CLASSES:
                raise self._refused(text)
            return _POSIX_CLASSES[match["posix"].lower()]
        if match["reserved"] is not None:
            raise self._refused(f"{text} in brackets")
        if match["escape"] is not None:
            if text[1] in _SAME_ESCAPES:
                return text
            if text[1].isalnum():
                raise self._refused(f"{text} in brackets")
            return re.escape(text[1])
        return text if text == "-" else re.escape(_lower(text))


def _compile(rule: str, pattern: str) -> re.Pattern[bytes]:
    translated = _Translator(rule, pattern).translate()
    try:
        return re.compile(translated.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise PlanError(f"tensor-type rule '{rule}': {error}") from error
