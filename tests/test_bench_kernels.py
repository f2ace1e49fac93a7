"""Kernel speeds: every type's operations, what counts as moved, and what memory gives."""

from __future__ import annotations

import io
import itertools
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from apex_native._native import core
from apex_native.evaluation.speed import (
    OPERATIONS,
    KernelProgress,
    KernelSpeed,
    kernel_record,
    measure_kernels,
    working_set_bytes,
)
from apex_native.evaluation.speed import kernels as kernels_module
from apex_native.machine import cache_bytes
from apex_native.reports import kernel_advice, kernel_lines, roofline_share
from apex_native.types import GgmlType

TARGETS = [type for type in GgmlType if type.is_target]
QUICK = {"repetitions": 2, "sample_seconds": 0.001, "working_set": 1}
"""One tile, two samples of one unit of rows or a millisecond."""


def quick(types: Sequence[GgmlType], **changes: object) -> list[KernelSpeed]:
    return list(measure_kernels(types, **{**QUICK, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def all_types() -> dict[tuple[str, str], KernelSpeed]:
    return {(row.operation, row.name): row for row in quick(TARGETS)}


@pytest.mark.parametrize("type", TARGETS, ids=str)
def test_every_type_has_its_operations(
    type: GgmlType, all_types: dict[tuple[str, str], KernelSpeed]
) -> None:
    found = {operation for operation, name in all_types if name == type.name}
    wanted = {"to_float", "vec_dot", "quantize"}
    if type is GgmlType.F32:
        wanted = {"copy", "read", "vec_dot"}  # as they are: nothing to convert
    if type in (GgmlType.F16, GgmlType.BF16):
        wanted |= {"widen"}
    assert found == wanted


def test_all_samples_are_there(all_types: dict[tuple[str, str], KernelSpeed]) -> None:
    for row in all_types.values():
        assert len(row.samples) == 2
        assert min(row.samples) > 0
        assert row.n_weights == 16 * 4096


def stored_bytes_per_weight(name: str) -> float:
    """As gguf-py has it, or for a type it does not know yet, as the bytes of a row say."""
    if name in GGMLQuantizationType.__members__:
        block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        return nbytes / block
    weights, imatrix = kernels_module._tile(0)
    return core.quantize_rows(weights, GgmlType[name].id, imatrix).nbytes / weights.size


def test_moved_bytes_are_stored_bytes_and_floats(
    all_types: dict[tuple[str, str], KernelSpeed],
) -> None:
    for (operation, name), row in all_types.items():
        stored = stored_bytes_per_weight(name)
        wanted = {"copy": 8.0, "read": 4.0, "vec_dot": stored}.get(operation, stored + 4)
        assert row.bytes_per_weight == wanted
        assert row.gb_per_s == pytest.approx(wanted * row.median / 1e9, rel=1e-12)


READ_ELSEWHERE = [
    type
    for type in TARGETS
    if GGMLQuantizationType.__members__.get(type.name) in gguf.quants._type_traits
]


def test_most_types_are_known_elsewhere() -> None:
    assert len(READ_ELSEWHERE) >= len(TARGETS) - 4


@pytest.mark.parametrize("type", READ_ELSEWHERE, ids=str)
def test_errors_are_those_of_another_implementation(
    type: GgmlType, all_types: dict[tuple[str, str], KernelSpeed]
) -> None:
    weights, imatrix = kernels_module._tile(0)
    stored = core.quantize_rows(weights, type.id, imatrix)
    found = gguf.quants.dequantize(stored, GGMLQuantizationType[type.name])
    error = found.reshape(weights.shape).astype(np.float64) - weights
    wanted = np.sqrt(np.sum(error**2) / np.sum(weights.astype(np.float64) ** 2))
    for operation in ("to_float", "quantize"):
        assert all_types[operation, type.name].relative_error == pytest.approx(wanted, rel=1e-5)


def test_dot_products_are_off_by_the_rounding_of_activations(
    all_types: dict[tuple[str, str], KernelSpeed],
) -> None:
    # 8-bit activations are off by 0.4 % at most each, and thousands of them cancel.
    errors = {name: row.relative_error for (op, name), row in all_types.items() if op == "vec_dot"}
    assert len(errors) == len(TARGETS)
    assert all(error < 1e-3 for error in errors.values()), errors
    assert errors["F32"] < 1e-6


def test_threads_and_working_set_are_as_asked() -> None:
    rows = quick([GgmlType.Q8_0], n_threads=(1, 2), working_set=5 << 20)
    assert [row.n_threads for row in rows] == [1] * 5 + [2] * 5
    for row in rows:
        tile = 16 * 4096
        assert row.n_weights % tile == 0
        assert 5 << 20 <= row.n_weights * row.bytes_per_weight < (5 << 20) + 8 * tile


def test_what_memory_gives_is_what_numpy_finds() -> None:
    """Within a factor of fifty of a copy by numpy: a wrong unit is further off, no machine is."""
    source = np.ones(16 << 20, np.float32)
    target = np.empty_like(source)
    np.copyto(target, source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    wanted = 2 * source.nbytes / best
    copy, read = quick([], repetitions=5, sample_seconds=0.02, working_set=128 << 20)
    assert (copy.operation, read.operation) == ("copy", "read")
    assert wanted / 50 < max(copy.samples) * copy.bytes_per_weight < wanted * 50
    assert read.gb_per_s > 0


def test_default_working_set_is_larger_than_the_caches() -> None:
    assert working_set_bytes() >= 2 * (cache_bytes() or 0)
    assert working_set_bytes() >= 64 << 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"types": [GgmlType.Q8_K]}, "Q8_K is no type that weights are stored in"),
        ({"types": [GgmlType.I32]}, "I32 is no type"),
        ({"n_threads": (0,)}, "n_threads: expected at least 1"),
        ({"n_threads": ()}, "n_threads: expected at least 1"),
        ({"n_threads": (17,), "working_set": 1}, "expected 1 to 16 threads for 16 rows"),
        ({"repetitions": 0}, "repetitions: expected at least 1"),
        ({"sample_seconds": 0.0}, "0 to 3600 seconds"),
        ({"sample_seconds": float("nan")}, "0 to 3600 seconds"),
        ({"working_set": 0}, "at least one byte"),
        ({"working_set": 1 << 60}, "more than half of the"),
        ({"device": "cuda"}, "needs a CUDA build"),
        ({"device": "abacus"}, "expected cpu or cuda, found 'abacus'"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    if arguments.get("device") == "cuda" and core.build_info()["cuda"]:
        pytest.skip("this build has CUDA")
    with pytest.raises(ValueError, match=message):
        quick(**{"types": [GgmlType.Q8_0], **arguments})  # type: ignore[arg-type]


def test_the_core_refuses_what_the_library_would_not_ask() -> None:
    bench = core.KernelBench("cpu")
    weights, imatrix = kernels_module._tile(0)

    def run(**changes: object) -> None:
        settings = {
            "operation": "vec_dot",
            "type": GgmlType.Q4_K.id,
            "weights": weights,
            "imatrix": imatrix,
            "n_weights": 1,
            "n_threads": 1,
            "repetitions": 1,
            "sample_seconds": 0.001,
        }
        bench.run(**{**settings, **changes})

    run()
    for changes, message in (
        ({"operation": "transmogrify"}, "operation: expected copy, read"),
        ({"type": 999}, "type number 999 is unknown"),
        ({"type": GgmlType.Q8_K.id}, "no such operation for q8_K"),
        ({"operation": "widen"}, "no such operation for q4_K"),
        ({"operation": "copy"}, "no such operation for q4_K"),
        ({"n_weights": 0}, "n_weights: expected at least 1"),
        ({"weights": weights[0]}, "expected shape"),
        ({"weights": np.ascontiguousarray(weights[:, :100]), "imatrix": imatrix[:100]}, "100"),
        ({"weights": np.full_like(weights, np.nan)}, "expected finite weights"),
        ({"imatrix": imatrix[:-1]}, "imatrix: expected 4096 elements"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)  # type: ignore[arg-type]


def test_progress_counts_measurements() -> None:
    seen: list[KernelProgress] = []
    rows = quick([GgmlType.Q8_0], progress=seen.append, sample_seconds=0.15)
    assert {state.total for state in seen} == {len(rows)}
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert KernelProgress("x", 2, 10, 3.0).eta_s == 12.0


def test_a_line_says_where_what_and_how(all_types: dict[tuple[str, str], KernelSpeed]) -> None:
    row = all_types["vec_dot", "Q4_K"]
    record = json.loads(json.dumps(kernel_record(row), allow_nan=False))
    assert record["benchmark"] == "kernels"
    assert (record["operation"], record["type"], record["bpw"]) == ("vec_dot", "Q4_K", 4.5)
    assert record["samples"] == list(row.samples)
    assert record["median"] == pytest.approx(sum(row.samples) / 2)
    assert record["build"] == core.build_info()
    assert record["machine"]["cpu"]
    assert record["kernel_isa"] in ("avx512", "avx2", "portable")


# --- what it means ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A made-up measurement: weights per second in units of a billion."""

    operation: str
    name: str
    bpw: float
    billions: float
    n_threads: int = 2
    wobble: float = 0.0

    @property
    def bytes_per_weight(self) -> float:
        floats = {"copy": 8.0, "read": 4.0}
        plus = 0 if self.operation == "vec_dot" else 4
        return floats.get(self.operation, self.bpw / 8 + plus)

    @property
    def samples(self) -> tuple[float, ...]:
        return tuple(1e9 * self.billions * (1 + d * self.wobble / 2) for d in (-1, 0, 1))

    @property
    def median(self) -> float:
        return 1e9 * self.billions

    @property
    def spread(self) -> float:
        return self.wobble

    @property
    def gb_per_s(self) -> float:
        return self.bytes_per_weight * self.billions


MADE_UP = [
    Kernel("copy", "F32", 32, 2.0),  # 16 GB/s
    Kernel("read", "F32", 32, 5.0),  # 20 GB/s
    Kernel("vec_dot", "Q8_0", 8.0, 18.0),  # 18 GB/s: 90 % of what can be read
    Kernel("vec_dot", "Q4_K", 4.0, 20.0),
    Kernel("vec_dot", "IQ3_S", 3.0, 8.0),
    Kernel("vec_dot", "Q3_K", 3.5, 19.5, wobble=0.1),
    Kernel("to_float", "Q4_K", 4.0, 1.0),  # 4.5 GB/s
    Kernel("vec_dot", "Q4_K", 4.0, 1.0, n_threads=1),
]


def test_shares_are_of_copies_and_of_reads() -> None:
    by_name = {(row.operation, row.name): row for row in MADE_UP[:7]}
    assert roofline_share(by_name["vec_dot", "Q8_0"], MADE_UP) == pytest.approx(0.9)
    assert roofline_share(by_name["to_float", "Q4_K"], MADE_UP) == pytest.approx(4.5 / 16)
    assert roofline_share(MADE_UP[7], MADE_UP) is None  # no roofline for one thread


def test_advice_names_what_costs_speed() -> None:
    speed, slower, memory = kernel_advice(MADE_UP, 2)
    assert "2 threads" in speed
    assert "20.00 billion weights per second, in Q4_K" in speed
    assert "IQ3_S 0.40x Q4_K" in slower
    assert "Q3_K" not in slower  # 0.975 is within its spread
    assert "Q8_0" in memory
    assert "Q4_K" not in memory


def test_advice_where_nothing_costs_speed() -> None:
    rows = [Kernel("vec_dot", "Q8_0", 8.0, 1.0), Kernel("vec_dot", "Q4_K", 4.0, 2.0)]
    assert "No type is slower than a larger one" in " ".join(kernel_advice(rows, 2))
    assert kernel_advice([], 2) == ()


def test_lines_are_sorted_by_size() -> None:
    lines = kernel_lines(MADE_UP, 2)
    assert [line.name for line in lines] == ["IQ3_S", "Q3_K", "Q4_K", "Q8_0"]
    assert set(lines[2].kernels) == {"vec_dot", "to_float"}


# --- the picture --------------------------------------------------------------------------------


def made_up_rows() -> list[Kernel]:
    rng = np.random.default_rng(4)
    rows = []
    for n_threads in (1, 64):
        rows += [Kernel("copy", "F32", 32, 2.0 * n_threads, n_threads)]
        rows += [Kernel("read", "F32", 32, 3.0 * n_threads, n_threads)]
        for type, operation in itertools.product(TARGETS, OPERATIONS):
            speed = n_threads * 10 ** rng.uniform(-4, 1)
            rows.append(Kernel(operation, type.name, type.bpw, speed, n_threads, 0.2))
    return rows


def test_the_plot_is_a_png() -> None:
    from apex_native.reports.plots.kernels import kernel_plot

    png = kernel_plot(
        made_up_rows(), cpu="A processor with a rather long name @ 2.6 GHz", working_set=1e9
    )
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width == 11.0 * 150
    assert height > 1000
    assert png == kernel_plot(
        made_up_rows(), cpu="A processor with a rather long name @ 2.6 GHz", working_set=1e9
    )


def test_nothing_in_the_plot_collides() -> None:
    from apex_native.reports.plots import kernels as plots
    from apex_native.reports.plots.canvas import style

    with style():
        figure = plots._draw(made_up_rows(), "A processor", 1e9)
        figure.savefig(io.BytesIO(), format="png")
        texts = [text for text in figure.texts if text.get_text()]
        for axes in figure.axes:
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            texts += [*axes.get_xticklabels(), *axes.get_yticklabels()] if axes.axison else []
            texts += axes.get_legend().get_texts() if axes.get_legend() else []
        boxes = [t.get_window_extent() for t in texts if t.get_visible() and t.get_text()]
    assert len(boxes) > len(TARGETS)
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_nothing_to_draw() -> None:
    from apex_native.reports.plots.kernels import kernel_plot

    with pytest.raises(ValueError, match="no kernels to draw"):
        kernel_plot(MADE_UP[:2], cpu="A processor", working_set=1e9)
