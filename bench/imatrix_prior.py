"""What a prior on experts that calibration hardly saw does to the KLD of small files.

    python bench/imatrix_prior.py --tools build/reference/reference --calibration a.txt b.txt ...
        --evaluation wiki.txt ... [--chunks 2,4,10] [--tiers i-compact,mini] [--folder DIR]

Calibrates the demo model on a few chunks, taken in turn from each text, quantizes with every prior
and measures the KL divergence from the BF16 model over the ends of the evaluation texts (no
calibration chunk is among them) with upstream's llama-perplexity. Prints a table and, as the last
line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import apex_native as apex
from apex_native.imatrix import (
    Imatrix,
    collect_imatrix,
    expert_coverage,
    parse_prior,
    read_text,
    with_all_experts,
    with_prior,
)

CTX = 512
MOST_TRIES = 5
"""llama-perplexity's log thread may die with the process before it has written the result."""

PRIORS = [
    "none", "0", "1", "4", "16", "64", "256", "1024", "all-experts:0", "all-experts:16",
    "all-experts:256",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """KLD of one file, in nats, with its standard error."""

    chunks: int
    unseen: int
    tier: str
    prior: str
    kld: float
    error: float
    top_p: float


def calibration_chunks(model: apex.Model, texts: Sequence[Path], n_chunks: int) -> np.ndarray:
    """Chunk i comes from text i % n: (n_chunks * CTX,) tokens."""
    tokens = [model.tokenize(read_text([p]), add_special=True, parse_special=False) for p in texts]
    taken = []
    for i in range(n_chunks):
        text, at = tokens[i % len(texts)], i // len(texts)
        taken.append(text[at * CTX : (at + 1) * CTX])
    return np.concatenate(taken)


def write_evaluation(texts: Sequence[Path], n_bytes: int, path: Path) -> None:
    """The last n_bytes of each text, from a line's beginning."""
    parts = []
    for text in texts:
        tail = read_text([text]).encode()[-n_bytes:].decode(errors="ignore")
        parts.append(tail[tail.find("\n") + 1 :])
    path.write_text("\n".join(parts))


class Divergence:
    """llama-perplexity's KLD against the demo model over one text."""

    def __init__(self, tools: Path, folder: Path, text: Path, threads: int) -> None:
        self._common = [str(tools / "llama-perplexity"), "-f", str(text), "-c", str(CTX),
                        "-t", str(threads),
                        "--kl-divergence-base", str(folder / "base.kld")]  # fmt: skip
        self._run("-m", str(apex.demo_model()))

    def of(self, model: Path) -> tuple[float, float, float]:
        """Mean KLD, its standard error, and the share of equal likeliest tokens."""
        for _ in range(MOST_TRIES):
            output = self._run("-m", str(model), "--kl-divergence")
            kld = re.search(r"Mean\s+KLD:\s+(\S+)\s+±\s+(\S+)", output)
            same = re.search(r"Same top p:\s+(\S+)", output)
            if kld is not None and same is not None:
                return float(kld[1]), float(kld[2]), float(same[1])
        raise SystemExit(f"llama-perplexity printed no result:\n{output[-2000:]}")

    def _run(self, *args: str) -> str:
        done = subprocess.run([*self._common, *args], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


def collect(texts: Sequence[Path], n_chunks: int, threads: int) -> Imatrix:
    """The matrix with its second pass."""
    passes = []
    for used in (None, 8):
        with apex.load_model(apex.demo_model(), n_threads=threads, expert_used_count=used) as model:
            passes.append(collect_imatrix(model, calibration_chunks(model, texts, n_chunks)))
    return with_all_experts(*passes)


def measure(
    imatrix: Imatrix, tier: str, priors: Sequence[str], divergence: Divergence, folder: Path
) -> Iterator[Row]:
    unseen = len(expert_coverage(imatrix).never_hit)
    with apex.open_gguf(apex.demo_model()) as source:
        for prior in priors:
            matrix = with_prior(imatrix, parse_prior(prior))
            plan = apex.make_plan(source, tier=tier, imatrix=matrix)
            output = folder / "quantized.gguf"
            apex.quantize(source, plan, output, imatrix=matrix, force=True)
            row = Row(imatrix.chunk_count, unseen, tier, prior, *divergence.of(output))
            print(f"{row.chunks:4} {row.unseen:6} {row.tier:10} {row.prior:16} "
                  f"{row.kld:9.6f} ± {row.error:.6f} {row.top_p:7.3f}", flush=True)  # fmt: skip
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-perplexity")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--chunks", default="2,4,10")
    parser.add_argument("--tiers", default="i-compact,mini")
    parser.add_argument("--priors", default=",".join(PRIORS))
    parser.add_argument("--bytes", type=int, default=16_000, help="of each evaluation text")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_evaluation(options.evaluation, options.bytes, folder / "evaluation.txt")
        divergence = Divergence(options.tools, folder, folder / "evaluation.txt", options.threads)
        rows = []
        print("chunks unseen tier       prior            KLD (nats)            same top %")
        for n_chunks in (int(n) for n in options.chunks.split(",")):
            imatrix = collect(options.calibration, n_chunks, options.threads)
            for tier in options.tiers.split(","):
                rows += measure(imatrix, tier, options.priors.split(","), divergence, folder)
    print(json.dumps({"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
