"""A llama-server that is not ours: xllamacpp's, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Its own process: it has a llama.cpp of its own, newer than ours.
SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_gpu_layers = int(sys.argv[2]), int(sys.argv[3])
params.n_parallel, params.cpuparams.n_threads = 1, 2
params.warmup = False
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def served(model: Path, *, ctx: int = 256, gpu_layers: int = 0) -> Iterator[str]:
    """The address it listens at."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(model), str(ctx), str(gpu_layers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")
