"""What users may give instead of what a function works with: paths for open files and matrices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Union

from apex_native.argument_kinds import require_kind
from apex_native.conversion import open_source
from apex_native.gguf import GgufFile
from apex_native.types import GgmlType
from apex_native.weights import WeightSource

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix

__all__ = ["AnyImatrix", "AnyPath", "AnySource", "matrix_of", "opened", "types_of"]

AnyPath = str | os.PathLike[str]
AnySource = WeightSource | str | os.PathLike[str]
AnyImatrix = Union["Imatrix", str, os.PathLike[str]]


@contextmanager
def opened(argument: str, source: AnySource) -> Iterator[WeightSource]:
    """The open source, or the file of that path or address for as long as its table is needed."""
    if isinstance(source, GgufFile) or isinstance(source, WeightSource):  # noqa: SIM101  (closed files)
        yield source
        return
    require_kind(
        argument, source, (GgufFile, str, os.PathLike), "give a path, or what apex.open_gguf gave"
    )
    with open_source(source, needs_data=False) as file:
        yield file


def types_of(like: AnySource | Mapping[str, GgmlType] | None) -> Mapping[str, GgmlType] | None:
    """A name → type map, or that of a file."""
    if like is None or isinstance(like, Mapping):
        return like
    with opened("like", like) as file:
        return {tensor.name: tensor.type for tensor in file.facts.tensors}


def matrix_of(imatrix: AnyImatrix | None) -> Imatrix | None:
    """The importance matrix, or that of a file."""
    from apex_native.imatrix import as_imatrix

    return None if imatrix is None else as_imatrix(imatrix)
