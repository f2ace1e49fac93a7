"""Our products of quantized weights in ggml's CPU backend give the bits of ggml's own.

APEX_ISA=portable and avx2 leave them out, which is the oracle: ggml's tiled products, and with few
columns its products of one row and one column. Calibration sees the inputs of every matrix, so that
equal sums mean equal activations all the way through a model.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
from pathlib import Path

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.types import GgmlType
from test_bf16_matmul import child

TYPES = ("Q2_K", "Q3_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")


def has_vnni() -> bool:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"} <= flags


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with every one of the types in routed, shared and other weights."""
    folder = tmp_path_factory.mktemp("panels")
    text, path = folder / "text.txt", folder / "all-types.gguf"
    text.write_text(demo_text(8000, seed=4))
    matrix = apex.calibrate(apex.demo_model(), text, ctx=64, max_chunks=4)
    names = [
        f"blk.{layer}.{name}.weight"
        for layer in range(8)
        for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_up_shexp", "ssm_out")
    ]
    rules = [
        f"^{re.escape(name)}$={type_name}"
        for name, type_name in zip(names, itertools.cycle(TYPES), strict=False)
    ]
    with apex.open_gguf(apex.demo_model()) as source:
        plan = apex.make_plan(source, ftype="Q6_K", tensor_types=rules, imatrix=matrix)
        apex.quantize(source, plan, path, imatrix=matrix)
    with apex.open_gguf(path) as written:
        assert {tensor.type.name for tensor in written.tensors} >= set(TYPES)
    return path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels are x86's")
def test_every_instruction_set_gives_the_same_bits(model: Path) -> None:
    _, expected = child(model, 300, "portable")
    assert child(model, 300, "avx512")[1] == expected
    assert child(model, 300, "avx512", n_threads=1)[1] == expected


def test_they_are_used_where_the_processor_can() -> None:
    wanted = has_vnni() and os.environ.get("APEX_ISA", "avx512") == "avx512"
    found = {type.name for type in GgmlType if core.has_panel_matmul(type.id)}
    assert found == (set(TYPES) if wanted else set())
    assert not core.has_panel_matmul(-1)
    assert not core.has_panel_matmul(10_000)
