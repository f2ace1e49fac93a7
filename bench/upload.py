"""How fast a model in memory gets onto a GPU: llama.cpp's own loading and ours.

    python bench/upload.py [MODEL.gguf] [--layers 5] [--rounds 3] [--threads N] [--json PATH]

Without MODEL, the first layers of Qwen3.5-35B-A3B's widths with random weights (wide_model.py; 5
are 9.8 GiB) are written to /dev/shm and deleted at the end. GiB of the file per second of a load:

    llama.cpp  mapped and entered by one thread, copied by one through the driver's buffers
    no mmap    llama.cpp reading into pinned memory of its own (`load_model(use_mmap=False)`)
    ours       N threads read pieces into pinned memory and send them from there

They take turns; a row has the median of all rounds, and as spread (largest - smallest) / median.
A load before them is not counted. What lies on the GPU in the end must be the file's bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

import apex_native as apex
from apex_native._native import core
from apex_native.engine import MAX_STREAM_THREADS
from apex_native.machine import cpu_name, usable_threads
from loading import GIB, print_table, read_plainly, take_turns
from wide_model import WideModel, write_wide_model

MAX_COMPARED = 2 * GIB


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(usable_threads(), MAX_STREAM_THREADS))
    parser.add_argument("--json", type=Path, help="append the figures to this file")
    args = parser.parse_args()
    with model_file(args.model, args.layers) as path:
        figures = measure(path, args.rounds, args.threads)
    print(json.dumps(figures))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
    return 0


@contextmanager
def model_file(given: Path | None, n_layers: int) -> Iterator[Path]:
    if given is not None:
        read_plainly(given)  # into memory
        yield given
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "wide.gguf"
        write_wide_model(path, WideModel(n_layers=n_layers), tokenizer=Path(apex.demo_model()))
        yield path


def measure(path: Path, n_rounds: int, n_threads: int) -> dict[str, object]:
    gib = path.stat().st_size / GIB

    def load(**options: Any) -> Any:
        return core.Model(str(path), n_gpu_layers=-1, **options)

    def rate(**options: Any) -> float:
        begin = time.perf_counter()
        model = load(**options)
        seconds = time.perf_counter() - begin
        del model
        return gib / seconds

    model = load(n_upload_threads=n_threads)
    uploaded = model.n_uploaded_bytes / GIB
    check_bytes(model, path)
    del model
    rounds = take_turns(n_rounds, {
        "llama.cpp": rate,
        "no mmap": lambda: rate(use_mmap=False),
        "ours": lambda: rate(n_upload_threads=n_threads),
    })  # fmt: skip
    print(f"\nLoading {path.name} from memory, {gib:.1f} GiB, {uploaded:.1f} of them by "
          f"{n_threads} threads:\n")  # fmt: skip
    table = print_table(rounds, "GiB/s", "llama.cpp")
    return {"machine": cpu_name(), "threads": n_threads, "GiB": gib, "uploaded GiB": uploaded,
            "loading": table}  # fmt: skip


def check_bytes(model: Any, path: Path) -> None:
    """Of the first weights, and of all that llama.cpp's own copies brought."""
    n_compared = 0
    for tensor in GGUFReader(path).tensors:
        expected = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        if n_compared + expected.size > MAX_COMPARED:
            continue
        n_compared += expected.size
        for data in model.weight_data(tensor.name):
            if not np.array_equal(np.frombuffer(data, np.uint8), expected):
                sys.exit(f"{tensor.name}: what lies on the GPU are not the file's bytes")


if __name__ == "__main__":
    sys.exit(main())
