"""Probes per hour of a sweep: in one process, and with 1, 2, 4 workers that Ray starts here.

    python bench/sweep_workers.py [--layers 8 | --model MODEL.gguf] [--workers 1,2,4] [--probes 4]
        [--chunks 16] [--ctx 512] [--threads N] [--gpu-layers -1] [--folder /dev/shm/sweep]

The model is wide_model.py's with so many layers (BF16, random weights), or the one given. A probe
is a candidate of its own: Q4_K_M with one layer's experts in another type, quantized in memory and
scored on one block of text. probes: of each worker. threads: of each worker, default an equal share
among the largest number of workers, so that one worker alone has no more than each of several.

s/probe: what a job took in its worker, mean; probes/h: from the end of each worker's first job,
which loads the reference, to the end of the last. overhead: time of workers that is no job's
(handing out, storing, waiting for the last) over the jobs'. whole: seconds with starting and
loading. All runs must give the same results. Prints a table, and a line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.machine import cpu_name, gpu_names, usable_threads
from apex_native.results import Results
from apex_native.sweeps import SweepProgress, SweepStore
from wide_model import WideModel, write_wide_model

TYPES = ("Q6_K", "Q5_K", "Q8_0", "Q3_K")


@dataclass(frozen=True)
class Run:
    """One number of workers; 0 is this process alone. ratio: rate over that of one worker."""

    workers: int
    probes: int
    s_per_probe: float
    probes_per_h: float
    overhead: float
    whole_s: float
    ratio: float | None = None


@dataclass
class Watch:
    """When jobs ended, in seconds since the run began."""

    began: float = field(default_factory=time.monotonic)
    ends: list[float] = field(default_factory=list)

    def __call__(self, progress: SweepProgress) -> None:
        while len(self.ends) < progress.n_done:
            self.ends.append(time.monotonic() - self.began)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/sweep"))
    args = parser.parse_args()

    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.model or write_wide_model(
        args.folder / "wide.gguf",
        WideModel(n_layers=args.layers, type="BF16"),
        tokenizer=Path(apex.demo_model()),
    )
    counts = [int(text) for text in args.workers.split(",")]
    threads = args.threads or max(1, usable_threads() // max(counts))
    # A worker of Ray sees one GPU only; this process has to be told.
    devices = ("CUDA0",) if args.gpu_layers else ()
    placement = Placement(n_threads=threads, n_gpu_layers=args.gpu_layers, devices=devices)
    device = (gpu_names() or ("no GPU",))[0] if args.gpu_layers else cpu_name()
    print(f"{model}, {device}, {threads} threads a worker", flush=True)
    runs = []
    for n in (0, *counts):
        runs.append(measure(model, n, args, placement))
        print(runs[-1], flush=True)
    require_same_results(args.folder, counts)
    show(runs)
    shutil.rmtree(args.folder)
    return 0


def measure(model: Path, n_workers: int, args: Any, placement: Placement) -> Run:
    n_probes = args.probes * max(1, n_workers)
    output = args.folder / f"out-{n_workers}"
    watch = Watch()
    apex.sweep(
        definition(model, args, n_probes),
        output,
        ray=n_workers > 0,
        workers=n_workers or None,
        placement=placement,
        report=False,
        force=True,
        progress=watch,
    )
    whole = time.monotonic() - watch.began
    with SweepStore(output / "sweep.sqlite") as store:
        seconds = store.seconds("score")
    first = max(1, n_workers)
    span = watch.ends[-1] - watch.ends[first - 1]
    busy = sum(seconds[first:]) / first
    return Run(
        n_workers,
        n_probes,
        sum(seconds[first:]) / len(seconds[first:]),
        3600 * (n_probes - first) / span,
        (span - busy) / busy,
        whole,
    )


def definition(model: Path, args: Any, n_probes: int) -> dict[str, Any]:
    """A sweep of so many probes on one block of text."""
    text = args.folder / "text.txt"
    text.write_text(demo_text(12 * args.chunks * args.ctx, seed=11))
    with apex.open_gguf(model) as source:
        n_layer = apex.classify(source).n_layer
    return {
        "reference": str(model),
        "texts": [
            {
                "file": str(text),
                "ctx": args.ctx,
                "chunks": args.chunks,
                "block": args.chunks,
                "noise_chunks": 0,
            }
        ],
        "candidates": [
            {
                "ftype": "Q4_K_M",
                "name": f"probe {i}",
                "tensor_types": [
                    rf"blk\.{i % n_layer}\.ffn_.*_exps={TYPES[i // n_layer % len(TYPES)]}"
                ],
            }
            for i in range(n_probes)
        ],
    }


def require_same_results(folder: Path, counts: list[int]) -> None:
    """Every candidate that two runs share has the same numbers in both."""
    one = {row.name: row for row in Results.load(folder / "out-0/results.json").candidates}
    for n in counts:
        for row in Results.load(folder / f"out-{n}/results.json").candidates:
            if row.name in one and row != one[row.name]:
                raise SystemExit(f"{row.name} differs with {n} workers")


def show(runs: list[Run]) -> None:
    alone = next((run for run in runs if run.workers == 1), runs[0])
    rows = [{**asdict(run), "ratio": run.probes_per_h / alone.probes_per_h} for run in runs]
    print("workers    probes   s/probe   probes/h    ratio   overhead    whole s")
    for row in rows:
        who = "no Ray" if row["workers"] == 0 else str(row["workers"])
        print(
            f"{who:>7}   {row['probes']:7}   {row['s_per_probe']:7.3f}   {row['probes_per_h']:8.1f}"
            f"   {row['ratio']:6.3f}   {row['overhead']:8.2%}   {row['whole_s']:8.1f}"
        )
    print(json.dumps({"threads": os.cpu_count(), "runs": rows}))


if __name__ == "__main__":
    raise SystemExit(main())
