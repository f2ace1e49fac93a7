"""The whole package on 64-bit ARM Linux, emulated: the files it writes are those written here.

Wants a folder made by wheels/arm64_root.py with the package installed, named by APEX_ARM64_ROOT;
skipped without, as in CI, where making one takes longer than all tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vector_digests
from quantize_models import write_imatrix, write_model

ARM64_ROOT = os.environ.get("APEX_ARM64_ROOT", "")
RUN = [sys.executable, str(Path(__file__).parents[1] / "wheels" / "arm64_root.py"), ARM64_ROOT]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARM64_ROOT, reason="APEX_ARM64_ROOT names no folder of arm64_root.py"),
]


def emulate(*arguments: str) -> str:
    done = subprocess.run(
        [*RUN, "--run", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.gguf"))
    }


def quantize(folder: Path) -> list[str]:
    model, matrix = folder.parent / "model-bf16.gguf", folder.parent / "matrix.gguf"
    folder.mkdir()
    command = ["-m", "apex_native", "quantize", str(model), "--imatrix", str(matrix)]
    return [*command, "--tier", "all", "-o", str(folder), "--quiet"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_model(folder / "model-bf16.gguf", n_layer=2)
    write_imatrix(folder / "matrix.gguf", n_layer=2)
    return folder


def test_it_is_another_machine() -> None:
    said = emulate("-c", "import platform; from apex_native._native import core; import json; "
                   "print(json.dumps([platform.machine(), core.kernel_isa()]))")  # fmt: skip
    assert json.loads(said) == ["aarch64", "neon"]


def test_every_tier_is_the_same_file(source: Path) -> None:
    here, there = source / "here", source / "there"
    subprocess.run([sys.executable, *quantize(here)], check=True)
    emulate(*quantize(there))
    assert len(sums(here)) > 5
    assert sums(here) == sums(there)


def test_vectorised_parts_have_the_same_bits() -> None:
    """Scores and bytes fitted to second moments, beside the kernels."""
    here, there = vector_digests.digests(), json.loads(emulate(vector_digests.__file__))
    assert there == here
