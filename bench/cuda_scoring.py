"""Scoring and calibration on a GPU beside llama-perplexity and llama-imatrix on the same one.

    python bench/cuda_scoring.py --tools DIR [--only parity,kld,imatrix] [--folder /dev/shm/scoring]
        [--chunks 24] [--repeat 3] [--threads N] [--n-vocab 248320] [--gpu-layers -1] [--json PATH]

The model is the demo model with a vocabulary of 248,320 tokens (vocabulary_model.py), BF16 as
reference and Q4_K_M as candidate. tools: a folder with llama-perplexity and llama-imatrix of a CUDA
build of the same source.

parity: the same logits scored on the GPU and on the CPU (every number of every position), and the
same inputs summed on the GPU and on the CPU; then a model that computes on the CPU as a whole, for
comparison: its own arithmetic differs. kld: tokens per second of the lockstep evaluation (both
models compute) and of llama-perplexity's --kl-divergence pass (the candidate computes, the
reference's log-probabilities come from a file in memory). imatrix: tokens per second of collecting,
upstream's scope, over more chunks. Ours is timed without loading; of a tool the difference of two
runs, of --chunks and three times as many, is taken, so that loading, reading and writing its files
do not count. Runs are interleaved. Prints lines and ends with one of JSON; exit code 1 where
results differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

import apex_native as apex
from apex_native._native import core
from apex_native.demo import demo_model
from apex_native.demo_text import demo_text
from apex_native.engine import Model, load_model
from vocabulary_model import write_vocabulary_model

N_VOCAB = 248_320
"""Qwen3.5's."""

CTX = 512
N_TOGETHER = 4
"""Chunks computed at once, ours and theirs: 2048 tokens."""

IMATRIX_CHUNKS = 100
"""Collecting is so much faster that --chunks would end before the difference of two runs shows."""

Sums = dict[str, tuple[np.ndarray, np.ndarray]]
"""Sums of squares and counts by weight."""

SCORES_WITHIN = 1e-5
SUMS_WITHIN = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--only", default="parity,kld,imatrix")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/apex-scoring"))
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--n-vocab", type=int, default=N_VOCAB)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("--json", type=Path, help="append the figures to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    print(json.dumps(core.build_info()), flush=True)
    for name in args.only.split(","):
        getattr(bench, name)()
    print(json.dumps(bench.figures))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(bench.figures) + "\n")
    return 1 if bench.failed else 0


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


class Bench:
    """The models, and what was found of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.figures: dict[str, Any] = {"n_vocab": args.n_vocab, "ctx": CTX}
        self.failed = False
        self.reference = args.folder / f"wide-{args.n_vocab}-bf16.gguf"
        self.candidate = args.folder / f"wide-{args.n_vocab}-q4_k_m.gguf"
        if not self.reference.exists():
            write_vocabulary_model(demo_model(), self.reference, args.n_vocab)
        if not self.candidate.exists():
            with apex.open_gguf(self.reference) as model:
                apex.quantize(model, apex.make_plan(model, ftype="Q4_K_M"), self.candidate)
        self.text = args.folder / "text.txt"
        with self.load(self.reference, layers=0) as model:
            most = 3 * max(args.chunks, IMATRIX_CHUNKS)
            self.tokens, text = enough_text(model, (most + 1) * CTX)
        self.text.write_text(text, encoding="utf-8")

    def load(self, path: Path, layers: int | None = None) -> Model:
        n = self.args.gpu_layers if layers is None else layers
        return load_model(path, n_gpu_layers=n, n_threads=self.args.threads)

    def say(self, text: str, **figures: Any) -> None:
        print(text, flush=True)
        self.figures.update(figures)

    # --- the same numbers -----------------------------------------------------------------------

    def parity(self) -> None:
        tokens = self.tokens[: 2 * CTX]
        with self.load(self.reference) as reference, self.load(self.candidate) as candidate:
            here = self.score(reference, candidate, tokens)[1]
            copied = self.score(reference, candidate, tokens, on_host=True)[1]
            sums = self.collect(candidate, tokens)[1]
            copied_sums = self.collect(candidate, tokens, on_host=True)[1]
        worst = score_difference(here, copied)
        self.failed |= not worst <= SCORES_WITHIN
        self.say(f"scores, GPU against CPU on the same logits: {worst:.2g} at most apart "
                 f"({len(here['nll'])} positions, mean KLD {np.mean(here['kld']):.6f})",
                 scores_apart=worst)  # fmt: skip
        worst = sums_difference(sums, copied_sums)
        self.failed |= not worst <= SUMS_WITHIN
        self.say(f"importance matrix, GPU against CPU on the same inputs: {worst:.2g} at most "
                 f"apart ({len(sums)} weights)", sums_apart=worst)  # fmt: skip
        tokens = tokens[:CTX]
        with self.load(self.reference, 0) as reference, self.load(self.candidate, 0) as candidate:
            cpu = self.score(reference, candidate, tokens)[1]
            cpu_sums = self.collect(candidate, tokens)[1]
        with self.load(self.reference) as reference, self.load(self.candidate) as candidate:
            gpu = self.score(reference, candidate, tokens)[1]
            gpu_sums = self.collect(candidate, tokens)[1]
        self.say("a model on the CPU, for comparison: "
                 f"NLL {score_difference(gpu, cpu, 'nll'):.2g}, "
                 f"KLD {score_difference(gpu, cpu, 'kld'):.2g} at most apart, "
                 f"mean KLD {np.mean(cpu['kld']):.6f} and {np.mean(gpu['kld']):.6f}; "
                 f"sums {sums_difference(gpu_sums, cpu_sums):.2g}",
                 nll_of_a_cpu_apart=score_difference(gpu, cpu, "nll"),
                 kld_of_a_cpu_apart=score_difference(gpu, cpu, "kld"),
                 sums_of_a_cpu_apart=sums_difference(gpu_sums, cpu_sums))  # fmt: skip

    def score(self, reference: Model, candidate: Model, tokens: np.ndarray, *,
              on_host: bool = False) -> tuple[float, dict[str, np.ndarray]]:  # fmt: skip
        """Seconds of a run, and the candidate's scores."""
        scorer = core.Scorer(
            reference=reference.native,
            candidates=[core.Candidate(model=candidate.native)],
            tokens=tokens,
            options=core.LaneOptions(
                n_ctx=CTX,
                n_sequences=min(N_TOGETHER, len(tokens) // CTX),
                n_positions=CTX,
                n_threads=self.args.threads,
            ),
        )
        if on_host:
            scorer.score_on_host_only()
        start = time.perf_counter()
        scorer.run()
        return time.perf_counter() - start, scorer.candidate_scores(0)

    def collect(
        self, model: Model, tokens: np.ndarray, *, on_host: bool = False
    ) -> tuple[float, Sums]:
        """Seconds without the first chunks, and sums and counts by weight."""
        run = core.ImatrixRun(
            model.native, n_ctx=CTX, n_batch=N_TOGETHER * CTX, n_ubatch=N_TOGETHER * CTX,
            n_threads=self.args.threads, scope="upstream",
        )  # fmt: skip
        if on_host:
            run.sum_on_host_only()
        step = run.n_seq * CTX
        start = time.perf_counter()
        for begin in range(0, len(tokens), step):
            if begin == step:
                run.entries()
                start = time.perf_counter()
            run.add_chunks(np.ascontiguousarray(tokens[begin : begin + step]))
        entries = {name: (sums, counts) for name, sums, counts, _ in run.entries()}
        return time.perf_counter() - start, entries

    # --- speed ----------------------------------------------------------------------------------

    def kld(self) -> None:
        n = self.args.chunks
        bases = [self.args.folder / f"base-{k}.kld" for k in (n, 3 * n)]
        for base, chunks in zip(bases, (n, 3 * n), strict=True):
            self.perplexity(self.reference, base, "--chunks", str(chunks), "-f", str(self.text))
        tokens = self.tokens[: 3 * n * CTX]
        theirs, ours, host = [], [], []
        with self.load(self.reference) as reference, self.load(self.candidate) as candidate:
            self.score(reference, candidate, tokens[: N_TOGETHER * CTX])  # to warm up
            for _ in range(self.args.repeat):
                long, short = (self.perplexity(self.candidate, base, "--kl-divergence")
                               for base in reversed(bases))  # fmt: skip
                theirs.append(2 * n * CTX / (long - short))
                seconds, scores = self.score(reference, candidate, tokens)
                ours.append(len(tokens) / seconds)
                copied, _ = self.score(reference, candidate, tokens, on_host=True)
                host.append(len(tokens) / copied)
        for base in bases:
            base.unlink()
        self.compare("kld", "lockstep evaluation", ours, "llama-perplexity --kl-divergence", theirs)
        self.say(f"the same with logits copied to the CPU: {statistics.median(host):,.0f} "
                 f"tokens/s; mean KLD {np.mean(scores['kld']):.6f}",
                 kld_host=statistics.median(host))  # fmt: skip

    def perplexity(self, model: Path, base: Path, *arguments: str) -> float:
        """Seconds of a whole process."""
        return self.tool("llama-perplexity", "-m", str(model), "--kl-divergence-base", str(base),
                         "-c", str(CTX), "-b", str(N_TOGETHER * CTX),
                         "-ub", str(N_TOGETHER * CTX), *arguments)  # fmt: skip

    def imatrix(self) -> None:
        n = IMATRIX_CHUNKS
        out = self.args.folder / "theirs.gguf"
        command = ("llama-imatrix", "-m", str(self.candidate), "-f", str(self.text), "-o", str(out),
                   "-c", str(CTX), "-b", str(N_TOGETHER * CTX), "-ub", str(N_TOGETHER * CTX),
                   "--no-ppl")  # fmt: skip
        tokens = self.tokens[: 3 * n * CTX]
        timed = len(tokens) - N_TOGETHER * CTX
        theirs, ours, host = [], [], []
        with self.load(self.candidate) as model:
            for _ in range(self.args.repeat):
                short = self.tool(*command, "--chunks", str(n))
                long = self.tool(*command, "--chunks", str(3 * n))
                theirs.append(2 * n * CTX / (long - short))
                seconds, entries = self.collect(model, tokens)
                ours.append(timed / seconds)
                host.append(timed / self.collect(model, tokens, on_host=True)[0])
        self.compare("imatrix", "collecting", ours, "llama-imatrix", theirs)
        worst, common = upstream_difference(entries, out)
        self.say(f"the same with inputs copied to the CPU: {statistics.median(host):,.0f} "
                 f"tokens/s; sums of {common} weights within {worst:.2g} of llama-imatrix's "
                 "(its are floats)",
                 imatrix_host=statistics.median(host), imatrix_upstream_apart=worst)  # fmt: skip

    def tool(self, name: str, *arguments: str) -> float:
        command = [str(self.args.tools / name), "-t", str(self.args.threads), "-ngl",
                   "99" if self.args.gpu_layers else "0", *arguments]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return time.perf_counter() - start

    def compare(self, key: str, us: str, ours: list[float], them: str, theirs: list[float]) -> None:
        ratio = statistics.median(ours) / statistics.median(theirs)
        spread = (max(ours) - min(ours)) / statistics.median(ours)
        figures = {f"{key}_ours": ours, f"{key}_theirs": theirs, f"{key}_ratio": ratio}
        self.say(
            f"{us}: {statistics.median(ours):,.0f} tokens/s (spread {spread:.0%}); {them}: "
            f"{statistics.median(theirs):,.0f}; ratio {ratio:.2f}",
            **figures,
        )


def enough_text(model: Model, n_tokens: int) -> tuple[np.ndarray, str]:
    """Tokens of generated text, and the text."""
    n = 1000
    while True:
        text = demo_text(n, seed=3)
        tokens = model.tokenize(text, add_special=True, parse_special=False)
        if len(tokens) >= n_tokens:
            return np.ascontiguousarray(tokens, np.int32), text
        n *= 2


def score_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], key: str = "") -> float:
    """The largest |a - b| of NLL and KLD of all positions; infinite where the tops differ."""
    if not key and not np.array_equal(a["is_same_top"], b["is_same_top"]):
        return float("inf")
    keys = [key] if key else ["nll", "kld"]
    return max(float(np.max(np.abs(a[k] - b[k]))) for k in keys)


def sums_difference(a: Sums, b: Sums) -> float:
    """The largest |a - b| / |b| of all weights' sums, as vectors; infinite where counts differ."""
    if a.keys() != b.keys():
        return float("inf")
    worst = 0.0
    for name, (sums, counts) in a.items():
        if counts.sum() != b[name][1].sum():
            return float("inf")
        size = np.linalg.norm(b[name][0])
        worst = max(worst, float(np.linalg.norm(sums - b[name][0]) / (size or 1.0)))
    return worst


def upstream_difference(entries: Sums, path: Path) -> tuple[float, int]:
    """As sums_difference, against a file of llama-imatrix; and the number of weights in both."""
    theirs = {t.name: np.array(t.data, np.float64) for t in GGUFReader(path).tensors}
    worst, common = 0.0, 0
    for name, (sums, _) in entries.items():
        found = theirs.get(f"{name}.in_sum2")
        if found is None:
            continue
        common += 1
        size = np.linalg.norm(found)
        worst = max(worst, float(np.linalg.norm(sums.ravel() - found.ravel()) / (size or 1.0)))
    return worst, common


if __name__ == "__main__":
    sys.exit(main())
