"""What a prior on experts that calibration hardly saw does to the KLD of small files.

    python bench/imatrix_prior.py --calibration a.txt b.txt ... --evaluation wiki.txt ...
        [--chunks 2,4,10,100] [--tiers i-compact,mini] [--priors none,256,...]

Calibrates the demo model on a few chunks, taken in turn from each text, quantizes with every prior
and measures the KL divergence from the BF16 model over the ends of the evaluation texts (no
calibration chunk is among them). Prints a table, differences with their 95 % interval against the
first prior over the same chunks, and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native.imatrix import (
    Imatrix,
    collect_imatrix,
    expert_coverage,
    with_all_experts,
)
from divergence import Divergence, calibration_chunks, divergences, text_end

PRIORS = [
    *("none", "0", "16", "256", "1024", "4096", "100000"),
    *("all-experts:0", "all-experts:256", "all-experts:1024"),
]
N_EXPERT = 8


@dataclass(frozen=True)
class Row:
    """One file; unseen: experts without a token."""

    chunks: int
    unseen: int
    tier: str
    prior: str
    measured: Divergence

    def __str__(self) -> str:
        found = self.measured
        change = "" if found.low is None else f"{found.low:+.5f} to {found.high:+.5f}"
        return (
            f"{self.chunks:6} {self.unseen:6} {self.tier:10} {self.prior:16} {found.kld:9.5f} ± "
            f"{found.error:.5f}   {change}"
        )


def collect(texts: Sequence[Path], n_chunks: int, threads: int) -> Imatrix:
    """The matrix with its second pass."""
    passes = []
    for used in (None, N_EXPERT):
        with apex.load_model(apex.demo_model(), n_threads=threads, expert_used_count=used) as model:
            passes.append(collect_imatrix(model, calibration_chunks(model, texts, n_chunks)))
    return with_all_experts(*passes)


def measure(
    imatrix: Imatrix, tier: str, priors: Sequence[str], text: str, threads: int
) -> list[Row]:
    unseen = len(expert_coverage(imatrix).never_hit)
    with tempfile.TemporaryDirectory() as folder, apex.open_gguf(apex.demo_model()) as source:
        files = []
        for i, prior in enumerate(priors):
            plan = apex.make_plan(source, tier=tier, imatrix=imatrix, prior=prior)
            files.append(Path(folder) / f"{i}.gguf")
            apex.quantize(source, plan, files[-1], imatrix=imatrix, n_threads=threads)
        found = divergences(files, text, threads)
    return [
        Row(imatrix.chunk_count, unseen, tier, prior, row)
        for prior, row in zip(priors, found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--chunks", default="2,4,10,100")
    parser.add_argument("--tiers", default="i-compact,mini")
    parser.add_argument("--priors", default=",".join(PRIORS))
    parser.add_argument("--bytes", type=int, default=40_000, help="of each evaluation text")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text = "\n".join(text_end(path, options.bytes) for path in options.evaluation)
    rows: list[Row] = []
    print("chunks unseen tier       prior            KLD (nats)          change from the first")
    for n_chunks in (int(n) for n in options.chunks.split(",")):
        imatrix = collect(options.calibration, n_chunks, options.threads)
        for tier in options.tiers.split(","):
            found = measure(imatrix, tier, options.priors.split(","), text, options.threads)
            print("\n".join(str(row) for row in found), flush=True)
            rows += found
    print(json.dumps({"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
