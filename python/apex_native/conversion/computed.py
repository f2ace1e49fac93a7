"""Tensors whose values are computed, in blocks small enough for any model.

A block is a number of slices along the first dimension, where every operation up to the files can
be done for those alone; otherwise it is the whole tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.conversion.lazy import (
    Operation,
    dim_of,
    evaluate,
    is_lazy,
    operation_of,
)
from apex_native.conversion.upstream import upstream

__all__ = ["Reading", "computed_rows"]

BLOCK_BYTES = 16 << 20
"""Stored bytes of a block; on the way it is F32, once or twice."""

_THREAD = threading.local()

Reading = Callable[[], AbstractContextManager[None]]
"""What is entered while the checkpoint's files are read."""

_Slicer = Callable[[int, int], Any]

_ELEMENTWISE = {
    *("to", "float", "half", "bfloat16", "type", "contiguous", "clone", "numpy"),
    *("neg", "exp", "abs", "sqrt", "square", "log", "reciprocal", "clamp"),
    *("__neg__", "__abs__", "__invert__", "bitwise_and", "bitwise_right_shift"),
    *(f"__{op}__" for op in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor")),
    *(f"__{op}__" for op in ("lshift", "rshift", "radd", "rsub", "rmul", "rtruediv")),
    *("add", "sub", "mul", "div"),
}


def computed_rows(
    data: Any, shape: tuple[int, ...], row_bytes: int, reading: Reading = nullcontext
) -> Any:
    """`core.RowBlocks` that compute a tensor's rows when a worker asks for them.

    shape is row-major, row_bytes the stored bytes of a row; reading is entered while a block is
    computed.
    """
    n_rows = int(np.prod(shape[:-1], dtype=np.int64))
    slicer = _slicer(data) if len(shape) > 1 else None
    if slicer is None:
        return core.RowBlocks(n_rows, n_rows, row_bytes, lambda _: _whole(data, reading))
    n_slices = shape[0]
    rows_per_slice = n_rows // n_slices
    n_per_block = max(1, min(n_slices, BLOCK_BYTES // (rows_per_slice * row_bytes)))

    slices = slicer

    def block_of(block: int) -> npt.NDArray[np.uint8]:
        first = block * n_per_block
        with reading(), _alone():
            return _bytes(slices(first, min(first + n_per_block, n_slices)))

    return core.RowBlocks(n_rows, n_per_block * rows_per_slice, row_bytes, block_of)


def _whole(data: Any, reading: Reading) -> npt.NDArray[np.uint8]:
    with reading(), _alone():
        return _bytes(evaluate(data))


@contextmanager
def _alone() -> Iterator[None]:
    """One thread of torch's for each of our workers, which are as many as the user wants."""
    torch = upstream().torch
    with torch.inference_mode():
        if not getattr(_THREAD, "is_alone", False):
            torch.set_num_threads(1)  # of this thread's loops only
            _THREAD.is_alone = True
        yield


def _bytes(array: Any) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _slicer(node: Any) -> _Slicer | None:
    """What gives slices first to last of a lazy value; None where it takes all of it."""
    if not is_lazy(node):
        return None if not hasattr(node, "shape") else lambda first, last: node[first:last]
    if node._data is not None:
        return lambda first, last: node._data[first:last]
    operation = operation_of(node)
    if isinstance(_first(operation), upstream().gguf.utility.LocalTensor):
        return lambda first, last: node._func(*node._args)[first:last]
    if isinstance(node, upstream().gguf.LazyNumpyTensor):
        return _array_slicer(node, operation)
    if operation.name == "stack" and dim_of(operation, 1, 0) == 0:
        parts = operation.args[0]
        stack = upstream().torch.stack
        return lambda first, last: stack(evaluate(list(parts[first:last])), dim=0)
    return _torch_slicer(node, operation)


def _first(operation: Operation) -> Any:
    return operation.args[0] if operation.args else None


def _array_slicer(node: Any, operation: Operation) -> _Slicer | None:
    """numpy(), astype() and quantize(): row by row all of them."""
    inner = _first(operation)
    if not is_lazy(inner) or inner._meta.shape[:-1] != node._meta.shape[:-1]:
        return None
    rows = _slicer(inner)
    rest, kwargs = operation.args[1:], operation.kwargs
    if rows is None:
        return None
    return lambda first, last: operation.call(rows(first, last), *rest, **kwargs)


def _torch_slicer(node: Any, operation: Operation) -> _Slicer | None:
    source = _first(operation)
    if not is_lazy(source) or source._meta.ndim < 2 or node._meta.ndim < 2:
        return None
    if source._meta.shape[0] != node._meta.shape[0]:
        return None
    if operation.name in _ELEMENTWISE:
        return _elementwise(node, operation)
    rows = _slicer(source) if operation.element is None else None
    rest = _arguments(operation, source._meta.ndim)
    if rows is None or rest is None:
        return None
    name, kwargs = operation.name, operation.kwargs
    return lambda first, last: getattr(rows(first, last), name)(*rest(last - first), **kwargs)


def _elementwise(node: Any, operation: Operation) -> _Slicer | None:
    """Arguments with the first dimension are sliced; what is broadcast over it is taken whole."""
    ndim, size = node._meta.ndim, node._meta.shape[0]
    slicers: list[_Slicer | None] = []
    for argument in operation.args:
        shape = tuple(getattr(argument, "shape", ()))
        sliced = len(shape) == ndim and shape[0] == size
        if not sliced and len(shape) == ndim and shape[0] != 1:
            return None
        rows = _slicer(argument) if sliced else None
        if sliced and rows is None:
            return None
        slicers.append(rows)
    call, kwargs, args = operation.call, operation.kwargs, operation.args

    def rows_of(first: int, last: int) -> Any:
        values = [
            evaluate(argument) if slicer is None else slicer(first, last)
            for argument, slicer in zip(args, slicers, strict=True)
        ]
        return call(*values, **kwargs)

    return rows_of


_Arguments = Callable[[int], tuple[Any, ...]]


def _arguments(operation: Operation, ndim: int) -> _Arguments | None:
    """The other arguments for n slices; None where the first dimension is not left alone."""
    args = operation.args[1:]
    name = operation.name
    if name in ("view", "reshape"):
        shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        is_plain = all(isinstance(n, int) for n in shape) and shape[0] >= 1
        return (lambda n: (n, *shape[1:])) if is_plain else None
    if name in ("transpose", "swapaxes", "swapdims") and len(args) == 2:
        leaves_first = 0 not in [dim % ndim for dim in args]
    elif name == "permute":
        order = args[0] if len(args) == 1 else args
        leaves_first = order[0] % ndim == 0
    elif name == "__getitem__" and isinstance(args[0], tuple):
        first = args[0][0]
        leaves_first = first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    else:
        leaves_first = False
    return (lambda _: args) if leaves_first else None
