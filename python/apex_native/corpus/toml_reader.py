"""Reading TOML tables so that every complaint names the file, the key, what was expected, found."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apex_native.errors import ApexError, CorpusError

__all__ = ["TomlReader"]


class TomlReader:
    """One table. Take the keys there may be, then call `done`, which refuses the others."""

    def __init__(
        self,
        table: Mapping[str, Any],
        origin: str,
        where: str = "",
        error: type[ApexError] = CorpusError,
    ) -> None:
        """Read table; origin and where say in errors, of that class, which one it is."""
        self._table = table
        self._origin = origin
        self._where = where
        self._error = error
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._taken.add(key)  # who asks for it knows it
        return key in self._table

    def error(self, key: str, what: str) -> ApexError:
        """An error about a key, to be raised."""
        return self._error(f"{self._origin}: {self._path(key)} {what}")

    def text(self, key: str, default: str | None = None, *, among: Sequence[str] = ()) -> str:
        """A string, one of a choice if there is one."""
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"must be a text, found {value!r}")
        if among and value not in among:
            raise self.error(key, f"must be one of {', '.join(among)}, found '{value}'")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, found {value!r}")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int) -> int:
        """A whole number that is not below least."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"must be a whole number from {least} on, found {value!r}")
        return value

    def integers(self, key: str, *, least: int) -> tuple[int, ...]:
        """A list of whole numbers that are not below least; not empty."""
        value = self._take(key, None)
        given = value if isinstance(value, list) else [value]
        if not given or not all(type(item) is int and item >= least for item in given):
            raise self.error(key, f"must be whole numbers from {least} on, found {value!r}")
        return tuple(given)

    def number(self, key: str, default: float | None = None, *, least: float, most: float) -> float:
        """A number between least and most."""
        value = self._take(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # NaN fails the comparison.
        if not is_number or not least <= value <= most:
            raise self.error(key, f"must be a number from {least:g} to {most:g}, found {value!r}")
        return float(value)

    def texts(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of strings; empty only where that is the default."""
        value = self._take(key, default)
        if value is default and default is not None:
            return tuple(default)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, found {value!r}")
        if not value:
            raise self.error(key, "must not be empty")
        return tuple(value)

    def choices(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """One string, or a list of them: what a grid goes through."""
        if isinstance(self._table.get(key), str):
            return (self.text(key),)
        return self.texts(key, default)

    def tables(self, key: str) -> Iterator[tuple[str, TomlReader]]:
        """The tables in a table, by name."""
        value = self._take(key, None)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, found {value!r}")
        for name, table in value.items():
            if not isinstance(table, dict):
                raise self.error(f"{key}.{name}", f"must be a table, found {table!r}")
            yield name, TomlReader(table, self._origin, self._path(f"{key}.{name}"), self._error)

    def table_list(self, key: str) -> list[TomlReader]:
        """A list of tables, at least one."""
        value = self._take(key, None)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"must be a list of tables, found {value!r}")
        if not value:
            raise self.error(key, "must not be empty")
        path = self._path(key)
        return [
            TomlReader(t, self._origin, f"{path}[{i}]", self._error) for i, t in enumerate(value)
        ]

    def done(self) -> None:
        """Refuse keys that nobody asked for, with the nearest known one."""
        known = sorted(self._taken)
        for key in self._table:
            if key not in self._taken:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
                raise self.error(key, f"is no known key; {hint}")

    def _take(self, key: str, default: Any) -> Any:
        self._taken.add(key)
        if key in self._table:
            return self._table[key]
        if default is None:
            raise self.error(key, "is missing")
        return default

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key
