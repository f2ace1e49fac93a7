"""Our products of BF16 and F16 weights in ggml's CPU backend give the bits of ggml's own on x86.

APEX_ISA=portable leaves it out, which is the oracle there; on 64-bit ARM, where ggml adds in
another order, a scalar twin is (tests/test_arm64.py). Calibration sees the inputs of every matrix,
so that equal sums mean equal activations all the way through a model.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import apex_native as apex
from apex_native._native import core
from calibration_models import write_expert_model
from cpp_programs import build_program

CHILD = """
import hashlib, sys
import numpy as np
import apex_native as apex
from apex_native._native import core

path, n_vocab, n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tokens = np.random.default_rng(9).integers(3, n_vocab, 7 * 32).astype(np.int32)
digest = hashlib.sha256()
with apex.load_model(path, n_threads=n_threads) as model:
    for ubatch in (24, 128):
        matrix = apex.collect_imatrix(model, tokens, ctx=32, batch=128, ubatch=ubatch)
        digest.update(matrix.sha256.encode())
    digest.update(model.generate(tokens[:40], n_predict=8, temperature=0).tobytes())
print(core.has_bf16_matmul() or core.has_f16_matmul(), digest.hexdigest())
"""


def child(path: Path, n_vocab: int, isa: str, n_threads: int = 2) -> tuple[str, str]:
    """Whether the kernel was used, and a hash of all sums and of a few generated tokens."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(n_vocab), str(n_threads)],
        env={**os.environ, "APEX_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used, digest = done.stdout.split()
    return used, digest


@pytest.fixture(scope="module", params=["demo", "odd", "f16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in both types, and one of rows of 64 and 96 whose router has 5 of them."""
    if request.param == "demo":
        return apex.demo_model()
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}.gguf"
    if request.param == "f16":
        apex.quantize(apex.demo_model(), apex.make_plan(apex.demo_model(), ftype="F16"), path)
        return path
    return write_expert_model(path, in_bf16=True)


def test_kernels_add_in_the_order_of_their_twin() -> None:
    done = subprocess.run(
        [build_program("twin_vs_bf16")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines == ["no kernel for this CPU"] or all(line.endswith(" differ 0") for line in lines)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ggml adds in another order here")
def test_every_instruction_set_gives_the_same_bits(model: Path) -> None:
    used, expected = child(model, 300, "portable")
    assert used == "False"
    for isa in ("avx2", "avx512"):
        assert child(model, 300, isa)[1] == expected, isa
    assert child(model, 300, "avx512", n_threads=1)[1] == expected


def test_it_is_used_where_there_is_a_kernel() -> None:
    if platform.machine() in ("aarch64", "arm64"):
        assert not core.has_f16_matmul()
        assert core.has_bf16_matmul() == (os.environ.get("APEX_ISA") != "portable")
        return
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if not {"avx2", "fma", "f16c"} <= set(flags.split()):
        pytest.skip("this CPU has no kernel")
    if os.environ.get("APEX_ISA") == "portable":
        pytest.skip("APEX_ISA leaves it out")
    assert core.has_bf16_matmul()
    assert core.has_f16_matmul()
