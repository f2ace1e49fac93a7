"""A model larger than the GPU's share: streamed, beside all of it on the GPU and layers as fit.

    python bench/streaming.py OUT.jsonl [--layers 40] [--type F16|BF16] [--folder /dev/shm/real]
        [--caps 24GiB,12GiB] [--ways all,streamed,today] [--chunks 96] [--today-chunks 8]
        [--threads N]

The model is wide_model.py's: Qwen3.5-35B-A3B by widths, random weights. Three ways to compute its
importance matrix and its perplexity, chunks of 512 tokens, each way in a process of its own:

    all        everything on the GPU, as without options
    streamed   `--gpu-memory CAP`
    today      `--gpu-layers` as many as fit beside all but CAP of the GPU's memory; the rest is
               llama.cpp's: products of many tokens are computed on the GPU, whose weights are
               copied for each from the mapped file

tokens/s: from the first finished batch to the end, so without loading; an evaluation's end is that
of its last score. peak: the GPU's used memory, by nvidia-smi ten times a second, less what was used
before. Lines of JSON are written as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

import apex_native as apex
from apex_native._native import core
from apex_native.cli.options import parse_size
from apex_native.demo_text import demo_text
from apex_native.engine import GPU_UBATCH, Model, load_model
from apex_native.evaluation.divergence.one_at_a_time import shape_of_heads, shape_of_pass
from apex_native.evaluation.divergence.reference import OpenReference
from apex_native.evaluation.divergence.scores import CandidateRun, ScoreRun, run_scores
from apex_native.evaluation.divergence.shape import ScoreShape
from apex_native.evaluation.divergence.stored_reference import hidden_states
from apex_native.gguf import open_gguf
from apex_native.gpu_layers import fit_gpu_layers
from apex_native.imatrix.collect import collect_imatrix
from apex_native.imatrix.collection import bytes_of_sums
from apex_native.machine import cpu_name
from apex_native.quantization import list_gpus
from apex_native.streaming import LargeBatches
from wide_model import WideModel, write_wide_model

CTX = 512
GIB = 1 << 30
Tokens = npt.NDArray[np.int32]


@dataclass
class Row:
    """What was computed, and how fast; value: the sums, or the perplexity."""

    what: str
    way: str
    cap: str
    tokens_per_s: float
    seconds: float
    n_tokens: int
    value: float
    loading_s: float
    plan: str


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--type", choices=("F16", "BF16"), default="F16")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/real"))
    parser.add_argument("--caps", default="24GiB,12GiB")
    parser.add_argument("--ways", default="all,streamed,today")
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--today-chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    path = args.folder / f"real-{args.layers}-{args.type.lower()}.gguf"
    if args.one:
        Measured(args, path, *args.one).run()
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        begin = time.perf_counter()
        widths = WideModel(n_layers=args.layers, type=args.type)
        write_wide_model(path, widths, tokenizer=Path(apex.demo_model()))
        print(f"{path.stat().st_size / GIB:.1f} GiB in {time.perf_counter() - begin:.0f} s")
    print(f"{cpu_name()}, {args.threads} threads; {gpu_name()}", flush=True)
    ways = args.ways.split(",")
    cases = [("all", "")] if "all" in ways else []
    cases += [(way, cap) for way in ways if way != "all" for cap in args.caps.split(",")]
    return max([run_case(args, way, cap) for way, cap in cases])


def run_case(args: argparse.Namespace, way: str, cap: str) -> int:
    """A process whose lines are written as they come, and one of its peak behind them."""
    before = used_gib()
    command = [sys.executable, __file__, *sys.argv[1:], "--one", way, cap]
    with Peak() as peak, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            keep(args.out, line.strip())
    last = {"way": way, "cap": cap, "peak_gib": round(peak.gib - before, 2), "gpu": gpu_name(),
            "cpu": cpu_name(), "layers": args.layers, "threads": args.threads,
            "exit_code": process.returncode}  # fmt: skip
    keep(args.out, json.dumps(last))
    return 1 if process.returncode else 0


def keep(out: Path, line: str) -> None:
    print(line, flush=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Measured:
    """One way: loaded once, then the matrix and the scores."""

    def __init__(self, args: argparse.Namespace, path: Path, way: str, cap: str) -> None:
        self.args, self.path, self.way, self.cap = args, path, way, cap
        self.n_chunks = args.today_chunks if way == "today" else args.chunks

    def run(self) -> None:
        begin = time.perf_counter()
        model = self.load()
        self.loading = time.perf_counter() - begin
        self.plan = "" if model.stream is None else repr(model.stream)
        text = demo_text(400_000, seed=3)
        tokens = model.tokenize(text + text, add_special=True, parse_special=False)
        tokens = np.ascontiguousarray(tokens[: self.n_chunks * CTX])
        self.matrix(model, tokens)
        self.scores(model, tokens)

    def load(self) -> Model:
        nbytes = parse_size(self.cap) if self.cap else 0
        threads = self.args.threads
        if self.way == "streamed":
            with open_gguf(self.path) as file:
                sums = bytes_of_sums(file.facts)
            batches = LargeBatches(CTX, self.n_chunks, n_outputs=CTX, beside=sums)
            return load_model(self.path, n_threads=threads, gpu_memory=nbytes, batches=batches)
        layers = -1
        if self.way == "today":
            free = list_gpus()[0].free_bytes

            def planned(n: int) -> object:
                return core.Model(str(self.path), n_gpu_layers=n, no_alloc=True)

            layers = fit_gpu_layers(planned, reserve=max(0, free - nbytes))
            print(json.dumps({"way": self.way, "cap": self.cap, "gpu_layers": layers}), flush=True)
        return load_model(self.path, n_threads=threads, n_gpu_layers=layers)

    def matrix(self, model: Model, tokens: Tokens) -> None:
        clock = Clock()
        found = collect_imatrix(model, tokens, progress=lambda p: clock.note(p.chunks_done))
        value = float(sum(float(entry.sums.sum()) for entry in found.entries.values()))
        self.tell("imatrix", clock, value)

    def scores(self, model: Model, tokens: Tokens) -> None:
        clock = Clock()
        n, threads = self.n_chunks, self.args.threads
        if model.stream is None:
            shape = ScoreShape(1, threads, min(n, GPU_UBATCH // CTX), CTX)
            run = ScoreRun(OpenReference(model=model), (), tokens, CTX, shape, with_routes=False)
            scores = run_scores(run, on_tick=lambda p, _: clock.note(round(p.share * n)))
        else:
            shape = shape_of_pass(model, CTX, n)
            run = ScoreRun(OpenReference(model=model), (), tokens, CTX, shape, with_routes=False)
            note = lambda share: clock.note(round(share * n))  # noqa: E731
            states = hidden_states(run, CandidateRun(model), note)
            n_vocab = model.n_vocab
            model.close()
            heads = shape_of_heads(CTX, n, n_vocab, threads)
            run = ScoreRun(OpenReference(hidden=states), (), tokens, CTX, heads, with_routes=False)
            scores = run_scores(run)
        self.tell("eval", clock, float(np.exp(scores.reference().nll.mean())))

    def tell(self, what: str, clock: Clock, value: float) -> None:
        seconds, chunks = clock.beyond_first()
        n_tokens = (self.n_chunks - chunks) * CTX
        row = Row(what, self.way, self.cap, n_tokens / seconds, seconds, n_tokens, value,
                  self.loading, self.plan)  # fmt: skip
        print(json.dumps(asdict(row)), flush=True)


class Clock:
    """When chunks were finished."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None

    def note(self, n_chunks: int) -> None:
        if n_chunks and self.first is None:
            self.first = (time.perf_counter(), n_chunks)

    def beyond_first(self) -> tuple[float, int]:
        """Seconds since the first batch was seen to be finished, and its chunks."""
        assert self.first is not None
        return time.perf_counter() - self.first[0], self.first[1]


class Peak:
    """The largest used memory of the GPU while it is open, in GiB."""

    def __init__(self) -> None:
        self.gib = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.gib = max(self.gib, used_gib())


def used_gib() -> float:
    return float(_smi("memory.used,", "nounits,") or 0) / 1024


def gpu_name() -> str:
    return _smi("name", "")


def _smi(query: str, form: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    # A process that sees some GPUs computes on the first of them.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = [
        "nvidia-smi",
        f"--id={first}",
        f"--query-gpu={query.rstrip(',')}",
        f"--format=csv,{form}noheader",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n", maxsplit=1)[0].strip()


if __name__ == "__main__":
    sys.exit(main())
