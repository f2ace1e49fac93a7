"""How fast the kernels of each type are, beside what the memory of this machine gives.

Input: types, thread counts, a device. Output: a `KernelSpeed` for each operation that a type has.
Measured in `csrc/bench/cpu_kernel_bench.cpp` and `csrc/bench/cuda_kernel_bench.cpp`; every result
is compared with what it must be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.errors import ApexError
from apex_native.evaluation.speed.samples import median_of, spread_of
from apex_native.interrupt import run_interruptible
from apex_native.machine import cache_bytes, free_memory
from apex_native.types import GgmlType

__all__ = [
    "GPU_OPERATIONS",
    "OPERATIONS",
    "ROOFLINES",
    "KernelProgress",
    "KernelSpeed",
    "measure_kernels",
    "working_set_bytes",
]

ROOFLINES = ("copy", "read")
"""What memory gives: floats copied (memcpy, ordinary stores), and floats read and added up."""

OPERATIONS = ("to_float", "widen", "vec_dot", "quantize")
"""Dequantizing by ggml's function and by ours where there is one, dot products, quantizing."""

GPU_OPERATIONS = (
    *("to_float", "to_half", "to_bfloat"),
    *("mat_mul_1", "mat_mul_2", "mat_mul_4", "mat_mul_8", "mat_mul_512"),
    "quantize",
)
"""Dequantizing by ggml's functions, products with so many columns by its graphs (one is a token
generated, 512 a part of a prompt), quantizing by our kernels."""

N_PER_ROW = 4096
"""Weights in a row: a multiple of every type's block, and the width of mid-sized models."""

TILE_ROWS = 16
"""64 Ki weights of random data, repeated over the working set: what is in a block decides nothing
about the speed, and the slowest quantizers take seconds for a million weights."""

MIN_WORKING_SET = 64 << 20
ASSUMED_CACHE = 128 << 20
"""Where the system does not tell; larger than most."""

GPU_WORKING_SET = 1 << 29
"""Several times the L2 of any GPU (50 MB of an H100, 126 MB of a B200)."""

_FLOAT_STEP = {GgmlType.F16: 2.0**-11, GgmlType.BF16: 2.0**-8}
_STEP_OF_RESULT = {"to_half": 2.0**-11, "to_bfloat": 2.0**-8}
_WORST_RATIO = 4.0
"""The bounds of `apex_native.self_test`, which explains them: rounding to nearest for floats,
for blocks the rate-distortion bound 2^-bpw of Gaussian weights and how near formats come."""


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """One operation on one type: weights per second of each repetition.

    bytes_per_weight: bytes moved (`csrc/bench/kernel_bench.h`): stored + 4 for dequantizing and
    quantizing (2 where the result is a half), stored for products (the activations stay in the
    cache), 8 for a copy and 4 for reading. n_threads: the host's, 1 for a GPU. n_weights: the
    working set. relative_error: of the tile's results, against the weights themselves
    (dequantizing, quantizing: relative RMSE) or against double arithmetic (products: of the
    norms); 0 for rooflines.
    """

    operation: str
    type: GgmlType
    n_threads: int
    device: str
    n_weights: int
    bytes_per_weight: float
    relative_error: float
    samples: tuple[float, ...]

    @property
    def bpw(self) -> float:
        """Bits per weight of the type."""
        return self.type.bpw

    @property
    def name(self) -> str:
        """The type's name."""
        return self.type.name

    @property
    def median(self) -> float:
        """Weights per second, the median of `samples`."""
        return median_of(self.samples)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median of `samples`."""
        return spread_of(self.samples)

    @property
    def gb_per_s(self) -> float:
        """Moved bytes at the median, in 10^9 per second."""
        return 1e-9 * self.bytes_per_weight * self.median


@dataclass(frozen=True, slots=True)
class KernelProgress:
    """How many of all measurements are done, and which one runs."""

    label: str
    done: int
    total: int
    elapsed_s: float

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @property
    def state(self) -> str:
        """What is measured."""
        return self.label

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the pace so far; None before the first measurement."""
        return self.elapsed_s * (self.total - self.done) / self.done if self.done else None


@dataclass(frozen=True, slots=True)
class _Task:
    operation: str
    type: GgmlType
    n_threads: int


def working_set_bytes() -> int:
    """Twice all last-level caches, so that nothing is found there again; at least 64 MiB."""
    return max(2 * (cache_bytes() or ASSUMED_CACHE), MIN_WORKING_SET)


def measure_kernels(
    types: Sequence[GgmlType] | None = None,
    *,
    device: str = "cpu",
    n_threads: Sequence[int] = (1,),
    repetitions: int = 5,
    sample_seconds: float = 0.1,
    working_set: int | None = None,
    seed: int = 0,
    operations: Sequence[str] | None = None,
    progress: Callable[[KernelProgress], None] | None = None,
) -> Iterator[KernelSpeed]:
    """Measure each type's operations, default all types that can be written; Ctrl-C is heard.

    The rooflines come first, then type after type, for each number of threads, which says nothing
    of a GPU. operations: of `OPERATIONS` or `GPU_OPERATIONS`, default all, without rooflines where
    they are named. working_set: bytes that an operation goes through before it meets the first
    again, default `working_set_bytes`, on a GPU `GPU_WORKING_SET`.
    Raises ValueError for settings out of range, types without kernels and a device this build
    cannot use, ApexError where a kernel computes something wrong.
    """
    bench = core.KernelBench(device)
    chosen = tuple(type for type in GgmlType if type.is_target) if types is None else tuple(types)
    on_gpu = device != "cpu"
    default = GPU_WORKING_SET if on_gpu else working_set_bytes()
    nbytes = default if working_set is None else working_set
    _check(chosen, n_threads, repetitions, nbytes)
    if not on_gpu:
        _check_memory(nbytes)
    session = _Session(bench, device, _tile(seed), repetitions, sample_seconds, nbytes)
    counts = (1,) if on_gpu else n_threads
    every = GPU_OPERATIONS if on_gpu else OPERATIONS
    if unknown := set(operations or ()) - set(every):
        raise ValueError(f"operations: {', '.join(sorted(unknown))} is none of {', '.join(every)}")
    tasks = tuple(_tasks(bench, chosen, every, counts))
    if operations is not None:
        tasks = tuple(task for task in tasks if task.operation in operations)
    return session.measure(tasks, progress)


def _check(
    types: Sequence[GgmlType], n_threads: Sequence[int], repetitions: int, nbytes: int
) -> None:
    for type in types:
        if not type.is_target:
            raise ValueError(f"{type.name} is no type that weights are stored in")
    if not n_threads or min(n_threads) < 1:
        raise ValueError(f"n_threads: expected at least 1, found {list(n_threads)}")
    if not 1 <= repetitions < 2**31:
        raise ValueError(f"repetitions: expected at least 1, found {repetitions}")
    if nbytes < 1:
        raise ValueError(f"working_set: expected at least one byte, found {nbytes}")


def _check_memory(nbytes: int) -> None:
    free = free_memory()
    if free is not None and nbytes > free // 2:
        raise ValueError(
            f"a working set of {nbytes:,} bytes is more than half of the {free:,} that are free; "
            "ask for a smaller one"
        )


def _tasks(
    bench: Any, types: Sequence[GgmlType], operations: Sequence[str], n_threads: Sequence[int]
) -> Iterator[_Task]:
    for threads in n_threads:
        yield from (_Task(operation, GgmlType.F32, threads) for operation in ROOFLINES)
        for type in types:
            for operation in operations:
                if bench.supports(operation, type.id):
                    yield _Task(operation, type, threads)


_Tile = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _tile(seed: int) -> _Tile:
    """Gaussian weights of a model's size and an importance for each column."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((TILE_ROWS, N_PER_ROW), np.float32) * np.float32(0.02)
    return weights, rng.lognormal(0.0, 1.0, N_PER_ROW).astype(np.float32)


@dataclass(frozen=True)
class _Session:
    """What all measurements of a call share."""

    bench: Any
    device: str
    tile: _Tile
    repetitions: int
    sample_seconds: float
    working_set: int

    def measure(
        self, tasks: Sequence[_Task], progress: Callable[[KernelProgress], None] | None
    ) -> Iterator[KernelSpeed]:
        start = time.monotonic()
        for done, task in enumerate(tasks):

            def tick(done: int = done, task: _Task = task) -> None:
                if progress is not None:
                    label = f"{task.type.name} {task.operation}"
                    elapsed = time.monotonic() - start
                    progress(KernelProgress(label, done, len(tasks), elapsed))

            row = self._run(task, tick)
            _check_error(row)
            yield row

    def _run(self, task: _Task, tick: Callable[[], None]) -> KernelSpeed:
        stop = core.StopFlag()
        moved: float = core.kernel_moved_bytes(task.operation, task.type.id)
        found = run_interruptible(
            lambda: self.bench.run(
                operation=task.operation,
                type=task.type.id,
                weights=self.tile[0],
                imatrix=self.tile[1],
                n_weights=max(int(self.working_set / moved), 1),
                n_threads=task.n_threads,
                repetitions=self.repetitions,
                sample_seconds=self.sample_seconds,
                stop=stop,
            ),
            stop.set,
            tick,
        )
        return KernelSpeed(
            operation=task.operation,
            type=task.type,
            n_threads=task.n_threads,
            device=self.device,
            n_weights=found["n_weights"],
            bytes_per_weight=found["bytes_per_weight"],
            relative_error=found["relative_error"],
            samples=tuple(1e9 * weights / ns for weights, ns in found["samples"]),
        )


def _check_error(row: KernelSpeed) -> None:
    """Formats against what they can reach; dot products are checked where they are computed."""
    limit = _FLOAT_STEP.get(row.type, min(1.0, _WORST_RATIO * 2.0**-row.bpw))
    limit = max(limit, _STEP_OF_RESULT.get(row.operation, 0.0))
    weighed = not row.operation.startswith(("copy", "read", "vec_dot", "mat_mul"))
    if weighed and not row.relative_error <= limit:
        raise ApexError(
            f"{row.name}: {row.operation} has a relative RMSE of {row.relative_error:.3g}, at most "
            f"{limit:.3g} was expected; `apex-native doctor --full` checks this installation"
        )
