"""apex-native imatrix against llama-imatrix: whole processes, same model, text and threads.

    python bench/imatrix_vs_llama.py --tools build/reference/reference [--text PATH] [--model PATH]
        [--chunks 100] [--threads 2] [--repeat 3] [--scope everything|upstream]

Runs are interleaved (theirs, ours, ...). Prints a table and, as the last line, one JSON object with
``ratio`` (theirs / ours) and ``share`` (ours / theirs). Exits with 1 if a count differs, or sums do
by more than upstream's additions in float explain. The text is generated unless one is given;
upstream's perplexity pass over as many tokens is measured once for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import apex_native as apex
from apex_native.demo_text import demo_text

CTX = 512
CHARS_PER_TOKEN = 6
"""More than the tokenizers of the models this is run on need for generated text."""

SUMS_RTOL = 1e-4
"""What 99 of 100 sums must agree to."""

ROUNDING_RTOL = 1e-3
"""What all sums must agree to. llama-imatrix adds 51,200 squares one after the other in float: over
100 chunks of the demo model its sums differ by up to 1.1e-4 from those of its own runs of 10 chunks
added in double. From the latter ours differ by 8.5e-6."""


@dataclass
class Samples:
    """Wall-clock seconds of one program's runs."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)

    def run(self) -> None:
        began = time.perf_counter()
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        self.seconds.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(self.command)}\n{done.stderr[-2000:]}")

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        return (max(self.seconds) - min(self.seconds)) / self.median


def differences(ours: Path, theirs: Path) -> tuple[float, float]:
    """Relative differences of the sums, the largest and the 99 % quantile.

    Raises SystemExit where a count differs.
    """
    found, expected = apex.load_imatrix(ours), apex.load_imatrix(theirs)
    relative = []
    for name, entry in expected.entries.items():
        own = found.entries[name]
        if (own.counts != entry.counts).any():
            raise SystemExit(f"{name}: counts differ")
        scale = np.maximum(np.abs(entry.sums), np.finfo(np.float32).tiny)
        relative.append((np.abs(own.sums - entry.sums) / scale).ravel())
    everything = np.concatenate(relative)
    return float(everything.max()), float(np.quantile(everything, 0.99))


def programs(options: argparse.Namespace, text: Path, folder: Path) -> list[Samples]:
    """theirs, ours, and the perplexity pass."""
    common = ["-m", str(options.model), "-f", str(text), "-c", str(CTX), "-t",
              str(options.threads), "--chunks", str(options.chunks)]  # fmt: skip
    theirs = [str(options.tools / "llama-imatrix"), *common, "--output-format", "gguf", "-o",
              str(folder / "theirs.gguf")]  # fmt: skip
    ours = [sys.executable, "-m", "apex_native", "imatrix", str(options.model), "-f", str(text),
            "--ctx", str(CTX), "--threads", str(options.threads), "--chunks", str(options.chunks),
            "--scope", options.scope, "-o", str(folder / "ours.gguf"), "--force",
            "--quiet"]  # fmt: skip
    plain = [str(options.tools / "llama-perplexity"), *common]
    return [
        Samples("llama-imatrix", theirs),
        Samples("apex-native imatrix", ours),
        Samples("llama-perplexity", plain),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-imatrix")
    parser.add_argument("--model", type=Path, default=None, help="default: the demo model")
    parser.add_argument("--text", type=Path, default=None, help="default: generated")
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scope", choices=["everything", "upstream"], default="everything")
    options = parser.parse_args()
    options.model = options.model or apex.demo_model()
    return options


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = options.text or folder / "text.txt"
        if options.text is None:
            text.write_text(demo_text(options.chunks * CTX * CHARS_PER_TOKEN, seed=31))
        theirs, ours, plain = programs(options, text, folder)
        plain.run()
        for _ in range(options.repeat):
            theirs.run()
            ours.run()
        worst, typical = differences(folder / "ours.gguf", folder / "theirs.gguf")
    print(f"{options.chunks} chunks of {CTX} tokens, {options.threads} threads, "
          f"{platform.processor() or platform.machine()}")  # fmt: skip
    for samples in (theirs, ours, plain):
        print(f"{samples.name:20} {samples.median:8.2f} s   spread {samples.spread:.0%}")
    print(f"relative difference of the sums: {worst:.1e} at most, 99 % within {typical:.1e}")
    print(
        json.dumps(
            {
                "ratio": theirs.median / ours.median,
                "share": ours.median / theirs.median,
                "theirs_s": theirs.seconds,
                "ours_s": ours.seconds,
                "perplexity_s": plain.seconds,
                "largest_difference": worst,
                "difference_99_percent": typical,
                "chunks": options.chunks,
                "threads": options.threads,
                "scope": options.scope,
            }
        )
    )
    if worst > ROUNDING_RTOL or typical > SUMS_RTOL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
