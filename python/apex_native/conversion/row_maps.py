"""Tensors that are rows of files in another order: no value has to be computed for them.

Stacked experts, heads that a converter reorders and halves of a fused tensor are all rows of the
checkpoint. An operation that leaves the last dimension alone does to the rows' places what it does
to the rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native.conversion.lazy import Operation, dim_of, is_lazy, operation_of
from apex_native.conversion.upstream import upstream
from apex_native.types import GgmlType
from apex_native.weights import RowRange

__all__ = ["row_ranges"]

_SAME = {"contiguous", "clone", "detach", "cpu", "copy", "ascontiguousarray"}
_RESHAPES = {"view", "reshape"}
_DTYPES = {"F32": GgmlType.F32, "F16": GgmlType.F16, "BF16": GgmlType.BF16}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where each row begins, in bytes; both arrays (...,), the shape without the last dimension."""

    dtype: str
    n_per_row: int
    paths: tuple[Path, ...]
    file: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.offset.shape, self.n_per_row)


def row_ranges(data: Any, type: GgmlType) -> list[RowRange] | None:
    """The ranges of files that are the tensor's rows; None where its values are computed."""
    found = _rows(data)
    if found is None or _DTYPES.get(found.dtype) is not type:
        return None
    return _ranges(found)


def _rows(node: Any) -> _Rows | None:
    if not is_lazy(node) or node._data is not None:
        return None
    operation = operation_of(node)
    leaf = _leaf(operation)
    if leaf is not None:
        return leaf
    if isinstance(node, upstream().gguf.LazyNumpyTensor):
        return _array_rows(node, operation)
    if operation.name in ("stack", "cat", "concat"):
        return _joined(operation)
    rows = _rows(operation.args[0]) if operation.args else None
    if rows is None:
        return None
    return _moved(rows, operation, tuple(node._meta.shape), node._meta.dtype)


def _leaf(operation: Operation) -> _Rows | None:
    tensor = operation.args[0] if len(operation.args) == 1 else None
    if not isinstance(tensor, upstream().gguf.utility.LocalTensor):
        return None
    if tensor.dtype not in _DTYPES or not tensor.shape:
        return None
    n_per_row = tensor.shape[-1]
    row_bytes = _DTYPES[tensor.dtype].row_bytes(n_per_row)
    leading = tensor.shape[:-1]
    n_rows = int(np.prod(leading, dtype=np.int64))
    offset = tensor.data_range.offset + row_bytes * np.arange(n_rows, dtype=np.int64)
    return _Rows(
        tensor.dtype,
        n_per_row,
        (Path(tensor.data_range.filename),),
        np.zeros(leading, np.int32),
        offset.reshape(leading),
    )


def _array_rows(node: Any, operation: Operation) -> _Rows | None:
    """An array of a tensor, or in another type: which is checked at the end.

    What was widened to F32 and goes back to its own 16 bits has the bits it had.
    """
    inner = operation.args[0] if operation.args else None
    is_a_conversion = operation.name == "<lambda>" or operation.name.endswith("quantize_array")
    if not is_a_conversion or inner is None or not is_lazy(inner):
        return None
    if inner._meta.shape[:-1] != node._meta.shape[:-1]:
        return None
    return _rows(inner)


def _joined(operation: Operation) -> _Rows | None:
    parts = [_rows(part) for part in operation.args[0]]
    known = [part for part in parts if part is not None]
    stacks = operation.name == "stack"
    dim = dim_of(operation, 1, 0)
    if len(known) != len(parts) or not known or dim is None:
        return None
    if len({(part.dtype, part.n_per_row) for part in known}) != 1:
        return None
    n_dims = len(known[0].shape) + stacks
    dim = dim % n_dims
    if dim == n_dims - 1:
        return None
    paths = tuple(dict.fromkeys(path for part in known for path in part.paths))
    files = [
        np.array([paths.index(path) for path in part.paths], np.int32)[part.file] for part in known
    ]
    join = np.stack if stacks else np.concatenate
    return _Rows(
        known[0].dtype,
        known[0].n_per_row,
        paths,
        join(files, axis=dim),
        join([part.offset for part in known], axis=dim),
    )


def _moved(rows: _Rows, operation: Operation, shape: tuple[int, ...], dtype: Any) -> _Rows | None:
    """The rows after an operation that only moves them; None for any other."""
    torch = upstream().torch
    name = operation.name
    if name in _SAME:
        return rows
    if name in ("to", "float", "type"):
        narrower = dtype not in (torch.float32, _torch_type(rows.dtype))
        return None if narrower else rows
    if not shape or shape[-1] != rows.n_per_row:
        return None
    if name in _RESHAPES or name in ("unsqueeze", "squeeze", "flatten"):
        return _with_places(rows, lambda places: places.reshape(shape[:-1]))
    moves = _moves(rows, operation)
    if moves is None:
        return None
    moved = _with_places(rows, moves)
    return moved if moved is not None and moved.shape == shape else None


def _moves(rows: _Rows, operation: Operation) -> Any:
    last = len(rows.shape) - 1
    args = operation.args[1:]
    if operation.name in ("transpose", "swapaxes", "swapdims") and len(args) == 2:
        dims = [dim % (last + 1) for dim in args]
        return None if last in dims else lambda places: places.swapaxes(*dims)
    if operation.name == "permute":
        order = args[0] if len(args) == 1 else args
        order = [dim % (last + 1) for dim in order]
        return None if order[-1] != last else lambda places: places.transpose(order[:-1])
    if operation.name == "__getitem__":
        index = _leading_index(args[0], last)
        return None if index is None else lambda places: places[index]
    if operation.name in ("chunk", "split", "unbind"):
        return _part(rows, operation)
    return None


def _leading_index(index: Any, n_leading: int) -> Any:
    """The index without what it says of the last dimension; None where that is not "all of it"."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is Ellipsis or isinstance(part, int | slice) for part in parts):
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        missing = n_leading + 1 - (len(parts) - 1)
        parts[at : at + 1] = [slice(None)] * missing
    if len(parts) > n_leading:
        if parts[n_leading] != slice(None):
            return None
        parts = parts[:n_leading]
    return tuple(parts)


def _part(rows: _Rows, operation: Operation) -> Any:
    """One of the parts that a dimension is cut into."""
    element = operation.element
    is_unbind = operation.name == "unbind"
    dim = dim_of(operation, 1 if is_unbind else 2, 0)
    if element is None or dim is None:
        return None
    dim = dim % len(rows.shape)
    if dim == len(rows.shape) - 1:
        return None
    if is_unbind:
        return lambda places: places.take(element, axis=dim)
    size = rows.shape[dim]
    how = operation.args[1] if len(operation.args) > 1 else None
    if isinstance(how, int):
        step = -(-size // how) if operation.name == "chunk" else how
        bounds = [*range(0, size, step), size]
    elif isinstance(how, list | tuple):
        bounds = [0, *np.cumsum(how).tolist()]
    else:
        return None
    index = (*[slice(None)] * dim, slice(bounds[element], bounds[element + 1]))
    return lambda places: places[index]


def _with_places(rows: _Rows, move: Any) -> _Rows:
    return _Rows(rows.dtype, rows.n_per_row, rows.paths, move(rows.file), move(rows.offset))


def _torch_type(dtype: str) -> Any:
    return upstream().base.LazyTorchTensor._dtype_str_map[dtype]


def _ranges(rows: _Rows) -> list[RowRange]:
    """Runs of rows of one file: as they lie, or with their order."""
    row_bytes = _DTYPES[rows.dtype].row_bytes(rows.n_per_row)
    file, offset = rows.file.reshape(-1), rows.offset.reshape(-1)
    same_file = file[1:] == file[:-1]
    follows = same_file & (offset[1:] == offset[:-1] + row_bytes)
    runs = np.flatnonzero(~follows) + 1
    # Rows in disorder are one range with an order; experts that lie apart are a range each.
    if len(runs) > len(offset) // 8 and len(offset) > 8:
        return _ordered(rows, file, offset, row_bytes, np.flatnonzero(~same_file) + 1)
    bounds = [0, *runs.tolist(), len(offset)]
    return [
        RowRange(rows.paths[file[begin]], int(offset[begin]), end - begin)
        for begin, end in itertools.pairwise(bounds)
        if end > begin
    ]


def _ordered(
    rows: _Rows,
    file: npt.NDArray[np.int32],
    offset: npt.NDArray[np.int64],
    row_bytes: int,
    cuts: npt.NDArray[np.intp],
) -> list[RowRange]:
    bounds = [0, *cuts.tolist(), len(offset)]
    ranges = []
    for begin, end in itertools.pairwise(bounds):
        places = offset[begin:end]
        first = int(places.min())
        order, rest = np.divmod(places - first, row_bytes)
        assert not rest.any()  # tensors of one dtype and width, but they may lie at any byte
        ranges.append(RowRange(rows.paths[file[begin]], first, end - begin, order.astype(np.int32)))
    return ranges
