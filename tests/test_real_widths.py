"""Every verb on a model of Qwen3.5-35B-A3B's widths with random weights.

Widths decide batch shapes, kernels and buffers, and have hidden faults that no small model showed.
Four layers of the true widths (8.2 GiB) need a GPU, or 48 GiB of memory and a few minutes;
elsewhere narrower ones go the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.machine import free_memory
from cli_tools import run
from test_cuda import gpu_problem
from wide_model import WideModel, write_wide_model

TRUE = WideModel(n_layers=4)
NARROW = WideModel(n_layers=4, n_experts=16, n_vocab=8192, n_embd=512, n_ff=128)

CHUNKS = {"0": "5", "-1": "17"}
"""By the layers on a GPU: enough for a noise floor by default, and no multiple of the 4 chunks that
a GPU computes at once."""

LAYERS_IN_GIB = 48
HAS_GPU = core.build_info()["cuda"] and gpu_problem() is None


def has_room() -> bool:
    """For the true widths, on the CPU."""
    memory = free_memory()
    return memory is not None and memory >= LAYERS_IN_GIB << 30


needs_room = pytest.mark.skipif(not has_room(), reason="four layers of true width do not fit")


@dataclass(frozen=True)
class Made:
    """What the verbs before left."""

    folder: Path
    model: Path
    text: Path
    gpu: tuple[str, ...]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((NARROW, False), id="narrow-cpu"),
        pytest.param((TRUE, False), id="true-cpu", marks=needs_room),
        pytest.param(
            (TRUE, True),
            id="true-gpu",
            marks=pytest.mark.skipif(not HAS_GPU, reason="there is no GPU"),
        ),
    ],
)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    widths, on_gpu = request.param
    folder = tmp_path_factory.mktemp("wide")
    model = write_wide_model(folder / "wide.gguf", widths, tokenizer=Path(apex.demo_model()))
    text = folder / "text.txt"
    text.write_text(demo_text(40_000, seed=3))
    yield Made(folder, model, text, ("--gpu-layers", "-1" if on_gpu else "0"))
    for path in folder.glob("*.gguf"):
        path.unlink()


def verb(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_verb_works(made: Made) -> None:
    folder, model, text, gpu = made.folder, made.model, made.text, made.gpu
    verb("inspect", model, "--json")
    imatrix, small = folder / "imatrix.gguf", folder / "small.gguf"
    verb("imatrix", model, "-f", text, "--chunks", "5", "-o", imatrix, *gpu)
    device = ("--device", "cuda") if "-1" in gpu else ()
    verb("quantize", model, "--tier", "mini", "--imatrix", imatrix, "-o", small, *device)
    scored = {}
    for name, mode in (("lockstep", ()), ("two-pass", ("--two-pass",))):
        out = folder / f"{name}.json"
        # Default options: with the noise floor and the routers.
        arguments = (
            "-r",
            model,
            small,
            "-f",
            text,
            "--chunks",
            CHUNKS[gpu[-1]],
            *mode,
            *gpu,
            "-o",
            out,
        )
        verb("eval", *arguments)
        scored[name] = json.loads(out.read_text())
        floor = scored[name]["noise_floor"]
        assert 0 <= floor["kld_mean"] < scored[name]["candidates"][0]["kld_mean"]
    one, other = (scored[name]["candidates"][0] for name in ("lockstep", "two-pass"))
    assert one["kld_mean"] == pytest.approx(other["kld_mean"], rel=0.05)
    assert one["ppl"] == pytest.approx(other["ppl"], rel=0.01)
    verb("bench", small, "-p", "64", "-n", "4", "-r", "1", *gpu)
    verb("report", folder / "lockstep.json", "-o", folder / "report", "--format", "md")
