"""No output of a command may be one of its inputs, or another of its outputs, or have no place.

One guard for all verbs, before they begin: what a verb reads is every file that its arguments and
options name and that exists, what it writes is in the table below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apex_native.atomic_write import require_place
from apex_native.errors import DataError, OutputError

__all__ = ["guard_outputs"]

_OUTPUTS = (
    "output",
    "manifest",
    "save_base",
    "jsonl",
    "results",
    "coverage",
    "heatmap",
    "png",
    "html",
    "by_domain",
    "hessian",  # of `imatrix`; where it is read it is no Path
)
"""Parameters of verbs that name a file or folder to write."""

_BESIDE = (".manifest.json", ".partial", ".journal", ".tmp", ".collected.gguf")
"""What verbs write beside an output, named after it."""

_CALIBRATED = ".imatrix.gguf"
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_NAMED = re.compile(r"[A-Za-z0-9_.-]+=(?P<path>.+)")


def guard_outputs(values: Mapping[str, Any]) -> None:
    """Raise OutputError where two of a command's files are one, the inputs' shards included.

    And where an output could not be written, which would else be found when the work is done.
    Raises DataError for an input that is a device: there may be no end to it.

    values are the parsed parameters by name. Whether an output may replace an older file is the
    verb's own question (``--force``).
    """
    # `report` calls a list of inputs results.
    outputs = [(name, values[name]) for name in _OUTPUTS if isinstance(values.get(name), Path)]
    for _, output in outputs:
        if not values.get("dry_run"):
            require_place(output)
    inputs = [
        path
        for name, value in values.items()
        if name not in dict(outputs)
        for path in _files(value)
    ]
    for path in _devices(v for name, v in values.items() if name not in dict(outputs)):
        raise DataError(f"{path} is a device, expected a file; choose another")
    for i, (name, output) in enumerate(outputs):
        for written in _written(output):
            clash = next((path for path in inputs if _same(written, path)), None)
            if clash is not None:
                raise OutputError(
                    f"{written} is an input of this command and {_option(name)} would write over "
                    f"it; choose another name with {_option(name)}"
                )
        for other, path in outputs[:i]:
            if any(_same(written, path) for written in _written(output)):
                raise OutputError(
                    f"{_option(other)} and {_option(name)} would both write {path}; give each a "
                    "name of its own"
                )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _written(output: Path) -> Iterator[Path]:
    yield output
    if not output.is_dir():
        yield from (output.with_name(output.name + suffix) for suffix in _BESIDE)
        yield output.with_name(output.name.removesuffix(".gguf") + _CALIBRATED)


def _files(value: object) -> Iterator[Path]:
    """The existing files that a parameter names, with all shards of a split model."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str | Path):
        named = _NAMED.fullmatch(str(value))
        for path in (Path(value), *((Path(named["path"]),) if named else ())):
            if _is_file(path):
                yield path
                yield from _siblings(path)


def _devices(values: Iterable[object]) -> Iterator[Path]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _devices(value)
        elif isinstance(value, str | Path) and str(value).startswith("/"):
            with suppress(OSError, ValueError):
                if Path(value).is_char_device() or Path(value).is_block_device():
                    yield Path(value)


def _siblings(path: Path) -> Iterator[Path]:
    match = _SHARD.fullmatch(path.name)
    if match is not None:
        for number in range(1, int(match["count"]) + 1):
            yield path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text too long for a name, a NUL in it
        return False


def _same(one: Path, other: Path) -> bool:
    """One file, by whatever names: links, hard links, and files that do not exist yet."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)
