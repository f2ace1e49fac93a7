"""Running the command line, in this process and in one of its own; models small enough for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from typer.testing import CliRunner, Result

from apex_native.cli.app import app
from gguf_builder import ValueType, bf16_tensor, f32_tensor, model_bytes, pair, write_gguf

N_EXPERTS = 4
ROW = 512

MANY_SECONDS = 240
"""More than anything takes here, on a busy machine too."""


def invoke(*args: str | Path) -> Result:
    """Run a verb here; exit_code, stdout and stderr are apart."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what would change how the command line behaves."""
    kept = {k: v for k, v in os.environ.items() if k not in ("APEX_DEBUG", "NO_COLOR")}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), **extra}


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "apex_native", *(str(arg) for arg in args)]


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own and wait for it."""
    return subprocess.run(
        command(*args), capture_output=True, text=True, check=False, env=environment(**env)
    )


def start(*args: str | Path) -> subprocess.Popen[str]:
    """Start the command with Ctrl-C working, whatever started the tests."""
    return subprocess.Popen(
        command(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=default_interrupt,
    )


def default_interrupt() -> None:
    """For a child: Ctrl-C works there, also where a shell started the tests in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    """Wait until condition() holds; fails if the process ends first."""
    assert callable(condition)
    deadline = time.monotonic() + MANY_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def n_finished(output: Path) -> int:
    """Tensors that the journal of an unfinished output has."""
    journal = output.with_name(output.name + ".journal")
    return journal.read_text().count("\n") - 1 if journal.exists() else -1


def moe_pairs(n_layers: int) -> list[bytes]:
    u32 = ValueType.U32
    return [
        pair("general.architecture", ValueType.STRING, "qwen3moe"),
        pair("general.name", ValueType.STRING, "Tiny"),
        pair("qwen3moe.block_count", u32, n_layers),
        pair("qwen3moe.expert_count", u32, N_EXPERTS),
        pair("qwen3moe.expert_used_count", u32, 2),
        pair("qwen3moe.context_length", u32, 1024),
    ]


def expert_names(n_layers: int) -> list[str]:
    kinds = ("gate", "up", "down")
    return [f"blk.{i}.ffn_{kind}_exps.weight" for i in range(n_layers) for kind in kinds]


def write_experts(path: Path, *, n_layers: int, rows: int, seed: int = 3) -> Path:
    """A model of routed experts alone: BF16 (4, rows, 512) for each of 3 kinds and layer."""
    weights = np.random.default_rng(seed).standard_normal((N_EXPERTS, rows, ROW), dtype=np.float32)
    tensors = [
        bf16_tensor(name, weights * np.float32(1 + i / 7))
        for i, name in enumerate(expert_names(n_layers))
    ]
    return write_gguf(path, tensors, moe_pairs(n_layers))


def write_imatrix(path: Path, *, n_layers: int) -> Path:
    """An importance matrix for write_experts, different for every expert and column."""
    pairs = [
        pair("imatrix.datasets", ValueType.STRING, ["made up"]),
        pair("imatrix.chunk_count", ValueType.U32, 1),
        pair("imatrix.chunk_size", ValueType.U32, 512),
    ]
    sums = np.random.default_rng(5).uniform(1, 9, (N_EXPERTS, ROW))
    tensors = []
    for name in expert_names(n_layers):
        tensors.append(f32_tensor(f"{name}.in_sum2", sums))
        tensors.append(f32_tensor(f"{name}.counts", np.full((N_EXPERTS, 1), 3.0)))
    return write_gguf(path, tensors, pairs)


def write_header(path: Path, *, n_layers: int, rows: int) -> Path:
    """The header of such a model, without its data."""
    tensors = [bf16_tensor(name, np.zeros((1, rows, ROW))) for name in expert_names(n_layers)]
    path.write_bytes(model_bytes(moe_pairs(n_layers), tensors, with_data=False))
    return path
