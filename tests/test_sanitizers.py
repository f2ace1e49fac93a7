"""The core under the address, leak and undefined-behaviour sanitizers, without Python."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gguf_builder as build
from cpp_programs import build_program
from hostile_files import HOSTILE, SOUND, fuzz_seed_file, mutate

pytestmark = pytest.mark.slow

N_MUTATIONS = 3000
REPORTS = ("AddressSanitizer", "LeakSanitizer", "runtime error", "UndefinedBehaviorSanitizer")


@pytest.fixture(scope="module")
def program() -> Path:
    return build_program("core_test", sanitize=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Every kind of source, a matrix per expert, and more than one unit of rows."""
    rng = np.random.default_rng(6)
    tensors = [
        build.f32_tensor("f32.weight", rng.standard_normal((2, 130, 512))),
        build.f16_tensor("f16.weight", rng.standard_normal((3, 1024))),
        build.bf16_tensor("bf16.weight", rng.standard_normal((200, 512))),
        build.quantized_tensor("q8_0.weight", build.Q8_0, (4, 512), q8_0_blocks(64, rng)),
    ]
    return build.write_gguf(tmp_path / "model.gguf", tensors)


def q8_0_blocks(n: int, rng: np.random.Generator) -> bytes:
    scale = np.float16(0.01).tobytes()
    return b"".join(scale + rng.integers(-127, 128, 32, np.int8).tobytes() for _ in range(n))


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    options = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **options},
        check=False,
    )


def run_clean(program: Path, *arguments: str | Path) -> str:
    """Standard output of a run that succeeded and reported nothing."""
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not any(report in done.stderr for report in REPORTS), done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "report"),
    [
        ("leak", "LeakSanitizer: detected memory leaks"),
        ("overrun", "AddressSanitizer: heap-buffer-overflow"),
        ("undefined", "signed integer overflow"),
    ],
)
def test_sanitizers_are_on(program: Path, kind: str, report: str) -> None:
    done = run(program, "err", kind)
    assert done.returncode != 0
    assert report in done.stderr


def test_hostile_files(program: Path, tmp_path: Path) -> None:
    for name, (content, _) in HOSTILE.items():
        (tmp_path / f"{name.replace('/', ' ')}.gguf").write_bytes(content)
    lines = run_clean(program, "parse", tmp_path).splitlines()
    assert len(lines) == len(HOSTILE)
    assert all(".gguf: refused: " in line for line in lines)


def test_sound_file(program: Path, tmp_path: Path) -> None:
    (tmp_path / "sound.gguf").write_bytes(SOUND)
    assert run_clean(program, "parse", tmp_path).startswith("sound.gguf: ok, 1 tensors")


def test_mutated_files(program: Path, tmp_path: Path) -> None:
    source, header_bytes = fuzz_seed_file()
    random_source = random.Random(4)
    for number in range(N_MUTATIONS):
        content = mutate(source, header_bytes, random_source)
        (tmp_path / f"{number}.gguf").write_bytes(content)
    # A mutated name may hold a line end, so lines are known by how they begin.
    outcomes = re.findall(r"^\d+\.gguf: (\w+)", run_clean(program, "parse", tmp_path), re.MULTILINE)
    assert len(outcomes) == N_MUTATIONS
    assert {"ok", "refused"} <= set(outcomes)


def test_every_type_with_one_and_three_threads(program: Path, model: Path) -> None:
    lines = run_clean(program, "quantize", model).splitlines()
    assert len(lines) == 28  # as many targets as ggml has (test_types.py)
    assert {"q4_K", "iq2_xxs", "bf16"} <= {line.split(":")[0] for line in lines}


def test_random_blocks_and_hard_weights(program: Path) -> None:
    assert "hard weights: " in run_clean(program, "rows")


def test_jobs_that_are_stopped_refused_or_fail(program: Path, model: Path) -> None:
    assert run_clean(program, "jobs", model).endswith("jobs: as they must\n")


@pytest.mark.parametrize("part", ["pieces", "failures", "mappings"])
def test_uploads(part: str) -> None:
    program = build_program("upload_test", sanitize=True)
    assert run_clean(program, part) == f"{part}: as they must\n"


def test_error_feedback() -> None:
    lines = run_clean(build_program("moments_test", sanitize=True)).splitlines()
    assert len(lines) == 17  # as many types as it has formats for (test_feedback.py)
    assert all(line.endswith(": as it must") for line in lines)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("twin_vs_ggml", ("--rows", "20")),
        ("twin_vs_softmax", ("--rows", "3")),
        ("twin_vs_squares", ("--seed", "7")),
    ],
)
def test_the_gpus_algorithms_on_the_cpu(name: str, arguments: tuple[str, ...]) -> None:
    lines = run_clean(build_program(name, sanitize=True), *arguments).splitlines()
    assert len(lines) >= 8
    assert all("differ 0" in line for line in lines)
