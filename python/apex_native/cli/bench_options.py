"""Lists of what to measure, as options take them: ``-p 512 -p 8192`` or ``-p 512,8192``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import typer

from apex_native.cli.option_names import in_options
from apex_native.errors import ApexError
from apex_native.types import GgmlType

__all__ = ["choice_list", "number_list", "pair_list", "settings_errors", "type_list"]

Value = TypeVar("Value")
Choice = TypeVar("Choice")


def number_list(option: str, given: Sequence[str] | None, *, least: int) -> list[int] | None:
    """The numbers of a repeatable option, None where it was not given; usage error otherwise."""
    if given is None:
        return None
    return _values(option, given, lambda part: _number(part, least))


def type_list(option: str, given: Sequence[str] | None) -> list[GgmlType] | None:
    """The ggml types of a repeatable option, None where it was not given; usage error otherwise."""
    return None if given is None else _values(option, given, GgmlType.parse)


def choice_list(
    option: str, given: Sequence[str] | None, choices: Sequence[Choice]
) -> list[Choice] | None:
    """Those of a repeatable option, None where it was not given; usage error for another."""
    known = dict(zip(map(str, choices), choices, strict=True))

    def parse(part: str) -> Choice:
        if part not in known:
            raise ValueError(f"expected one of {', '.join(known)}, found '{part}'")
        return known[part]

    return None if given is None else _values(option, given, parse)


def pair_list(option: str, given: Sequence[str] | None) -> list[tuple[int, int]]:
    """The pairs of a repeatable option, each written ``512,128``."""
    pairs = []
    for text in given or ():
        parts = text.split(",")
        if len(parts) != 2:
            raise typer.BadParameter(f"{option}: '{text}' is no pair; write it like 512,128")
        first, second = _values(option, parts, lambda part: _number(part, 0))
        pairs.append((first, second))
    return pairs


@contextmanager
def settings_errors() -> Iterator[None]:
    """What the library refuses with a ValueError is the command line's mistake here."""
    try:
        yield
    except ApexError:
        raise
    except ValueError as error:
        raise typer.BadParameter(in_options(str(error))) from error


def _values(option: str, given: Sequence[str], parse: Callable[[str], Value]) -> list[Value]:
    values = []
    for part in ",".join(given).split(","):
        try:
            value = parse(part.strip())
        except ValueError as error:
            raise typer.BadParameter(f"{option}: {error}") from None
        if value not in values:
            values.append(value)
    return values


def _number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) < 2**31:
        raise ValueError(f"expected a whole number of at least {least}, found '{text}'")
    return int(text)
