"""One importance matrix by copies of a model on several GPUs, beside one GPU.

    python bench/imatrix_gpus.py [--layers 16] [--folder /dev/shm/real] [--chunks 1600]
        [--experts 256] [--threads N] [--copies 1,2] [--on-cpu] [--json PATH]

The model is wide_model.py's: Qwen3.5-35B-A3B by widths, F16, random weights. A process for each
number of GPUs (default: one, two, all of them; --on-cpu: copies with a thread each) collects the
same chunks of 512 tokens. Speed is that of the second half, when all copies should be there:
`groups` says how many batches each computed. "all" is everything from the first byte read to the
last sum. Prints a line of JSON after each process and says whether all wrote the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.imatrix.copies import places_of
from apex_native.imatrix.several_models import SeveralModels
from apex_native.machine import cpu_name
from apex_native.quantization import list_gpus
from wide_model import WideModel, write_wide_model

CTX = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/real"))
    parser.add_argument("--chunks", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--copies", help="numbers of GPUs, default 1, 2 and all")
    parser.add_argument("--on-cpu", action="store_true")
    parser.add_argument("--json", type=Path, help="append the figures to this file")
    parser.add_argument("--collect", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.folder / f"real-{args.layers}-{args.experts}.gguf"
    if args.collect:
        print(json.dumps(collect(model, args)))
        return 0
    if not model.exists():
        widths = WideModel(n_layers=args.layers, n_experts=args.experts)
        write_wide_model(model, widths, tokenizer=Path(apex.demo_model()))
    n_gpus = 2 if args.on_cpu else len(list_gpus())
    numbers = args.copies or ",".join(map(str, sorted({1, min(2, n_gpus), n_gpus})))
    found: list[dict[str, Any]] = []
    for n in map(int, numbers.split(",")):
        found.append(in_a_process(n, args))
        line = json.dumps({**found[-1], "layers": args.layers, "chunks": args.chunks,
                           "speed_ratio": found[-1]["tokens_per_s"] / found[0]["tokens_per_s"],
                           "cpu": cpu_name(), "threads": args.threads})  # fmt: skip
        print(line, flush=True)
        if args.json:
            with args.json.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    same = len({figures["sha256"] for figures in found}) == 1
    print(f"files: {'the same bytes' if same else 'DIFFERENT'}", flush=True)
    return 0 if same else 1


def in_a_process(n: int, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of n copies; the process sees n GPUs only."""
    command = [sys.executable, __file__, "--collect", n, "--layers", args.layers, "--experts",
               args.experts, "--folder", args.folder, "--chunks", args.chunks, "--threads",
               args.threads]  # fmt: skip
    if args.on_cpu:
        command.append("--on-cpu")
    run = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(n)))},
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return figures


def collect(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One collection in this process."""
    if args.on_cpu:
        places = (Placement(n_threads=1),) * args.collect
    else:
        places = places_of(Placement(n_gpu_layers=-1, n_threads=args.threads), model)
    seen: list[tuple[float, int]] = []
    shares: list[list[int]] = []
    close = SeveralModels.close

    def note_shares(sums: SeveralModels) -> None:
        shares.append(sums.groups_each)
        close(sums)

    SeveralModels.close = note_shares  # type: ignore[assignment,method-assign]
    begin = time.perf_counter()
    with places[0].load(model) as loaded:
        loading_s = time.perf_counter() - begin
        text = loaded.tokenize(demo_text(100_000, seed=3), add_special=True, parse_special=False)
        matrix = apex.collect_imatrix(
            loaded, np.resize(text, args.chunks * CTX), ctx=CTX, beside=places[1:],
            progress=lambda state: seen.append((time.perf_counter(), state.chunks_done)),
        )  # fmt: skip
    half = next(state for state in seen if state[1] >= args.chunks // 2)
    end = seen[-1]
    return {
        "copies": len(places), "groups": shares, "loading_s": round(loading_s, 2),
        "tokens_per_s": round((end[1] - half[1]) * CTX / (end[0] - half[0])),
        "beyond_loading_s": round(end[0] - begin - loading_s, 2),
        "all_s": round(end[0] - begin, 2), "sha256": matrix.sha256,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
