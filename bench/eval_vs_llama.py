"""apex-native eval against llama-perplexity: a reference and candidates, same text and threads.

    python bench/eval_vs_llama.py --tools build/reference/reference [--chunks 100] [--threads N]
        [--types Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,IQ4_XS] [--repeat 3] [--vocab 248320] [--text PATH]
        [--model PATH]

Theirs is a pass that writes the base file and one KLD pass for each candidate; ours is one process
that does all of it, noise floor, router agreement and comparisons included. Whole processes,
interleaved. --vocab: a random-weight model of the demo's shape with that many tokens instead.
--model: another one, with random weights (wide_model.py); --types "" compares its perplexity alone.
Prints a table and, as the last line, a JSON object: ``ratio`` (theirs / ours), ``share`` (ours /
theirs), what each wrote to disk, and our peak memory beside the models. Exits with 1 where a
perplexity differs in 4 digits or a KLD by more than the code of base files and rounding allow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.machine import cpu_name
from vocabulary_model import write_vocabulary_model

CTX = 512
CHARS_PER_TOKEN = 6
"""More than the demo's tokenizer needs for generated text."""

PPL_RTOL = 5e-4
"""Four digits."""

KLD_ATOL, KLD_RTOL = 1e-4, 1e-2
"""Codes of a base file are up to 16 / 65535 nats apart: a log-probability is off by up to 1.2e-4, a
KLD by less. Relative: quantized products of the last rows of a batch that is no multiple of four
are rounded in another order, and the programs' batches differ (measured: up to 5e-3)."""

RANDOM_RTOL = 3e-2
"""Of both with random weights, which make much of every rounding: batches of 96 or 33 tokens, not
512, move our own perplexity of the three types tried by up to 2e-2."""


REFERENCE = "(reference)"


@dataclass
class Run:
    """One whole process."""

    seconds: float
    output: str
    written_bytes: int
    peak_bytes: int


@dataclass
class Samples:
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    base_bytes: int = 0
    written_bytes: int = 0
    peak_bytes: int = 0
    largest_kld_difference: float = 0.0


def run_process(command: list[str], folder: Path) -> Run:
    """Run to the end; SystemExit if it fails. Bytes written are those of files left or removed."""
    with tempfile.TemporaryFile() as out:
        begin = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read().decode(errors="replace")
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    # ru_oublock counts blocks of 512 bytes that went to a file system with a disk behind it.
    return Run(seconds, output, usage.ru_oublock * 512, usage.ru_maxrss * 1024)


class Bench:
    """The files, and one comparison over them."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.reference = arguments.model or apex.demo_model()
        if arguments.vocab:
            self.reference = write_vocabulary_model(
                self.reference, folder / "reference.gguf", arguments.vocab
            )
        self.text = arguments.text or folder / "text.txt"
        if arguments.text is None:
            self.text.write_text(demo_text(arguments.chunks * CTX * CHARS_PER_TOKEN, seed=31))
        types = arguments.types.split(",") if arguments.types else []
        self.candidates = [self._candidate(name) for name in types]
        self.base = folder / "base.kld"

    def _candidate(self, ftype: str) -> Path:
        path = self.folder / f"{ftype}.gguf"
        with apex.open_gguf(self.reference) as model:
            plan = apex.make_plan(model, ftype=ftype)
            apex.quantize(model, plan, path, n_threads=self.arguments.threads)
        return path

    def theirs(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Seconds of all passes, and what each KLD pass printed."""
        tool = str(self.arguments.tools / "llama-perplexity")
        common = ["-f", str(self.text), "-c", str(CTX), "--chunks", str(self.arguments.chunks),
                  "-t", str(self.arguments.threads)]  # fmt: skip
        base = ["--kl-divergence-base", str(self.base)] if self.candidates else []
        run = run_process([tool, "-m", str(self.reference), *common, *base], self.folder)
        seconds, found = run.seconds, {REFERENCE: parse_ppl(run.output)}
        for path in self.candidates:
            run = run_process(
                [tool, "-m", str(path), *common, "--kl-divergence", "--kl-divergence-base",
                 str(self.base)],
                self.folder,
            )  # fmt: skip
            seconds += run.seconds
            found[path.stem] = parse_kld(run.output)
        return seconds, found

    def ours(self) -> tuple[Run, dict[str, Any]]:
        run = run_process(
            [sys.executable, "-m", "apex_native", "eval", "--reference", str(self.reference),
             *map(str, self.candidates), "--text", str(self.text), "--ctx", str(CTX), "--chunks",
             str(self.arguments.chunks), "--threads", str(self.arguments.threads), "--json",
             "--quiet"],
            self.folder,
        )  # fmt: skip
        return run, json.loads(run.output)

    def measure(self) -> Samples:
        samples = Samples()
        for _ in range(self.arguments.repeat):
            seconds, expected = self.theirs()
            samples.theirs.append(seconds)
            if self.candidates:
                samples.base_bytes = self.base.stat().st_size
                self.base.unlink()
            before = set(self.folder.iterdir())
            run, document = self.ours()
            samples.ours.append(run.seconds)
            left = set(self.folder.iterdir()) - before
            samples.written_bytes = max(samples.written_bytes, run.written_bytes)
            samples.peak_bytes = max(samples.peak_bytes, run.peak_bytes)
            if left:
                sys.exit(f"files were left behind: {left}")
            samples.largest_kld_difference = compare(
                document, expected, RANDOM_RTOL if self.random else 0.0
            )
        return samples

    @property
    def random(self) -> bool:
        return bool(self.arguments.vocab or self.arguments.model)

    @property
    def model_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.reference, *self.candidates))


def parse_ppl(output: str) -> dict[str, float]:
    """The perplexity of a pass without a base file to compare with."""
    match = re.search(r"Final estimate: PPL = ([-0-9.]+)", output)
    if match is None:
        sys.exit(f"llama-perplexity printed no perplexity:\n{output[-2000:]}")
    return {"ppl": float(match[1])}


def parse_kld(output: str) -> dict[str, float]:
    """Mean PPL(Q) and mean KLD as llama-perplexity prints them."""
    found = {}
    for key, label in (("ppl", r"Mean PPL\(Q\)"), ("kld_mean", "Mean    KLD")):
        match = re.search(rf"{label}\s*:\s*([-0-9.]+)", output)
        if match is None:
            sys.exit(f"llama-perplexity printed no {key}:\n{output[-2000:]}")
        found[key] = float(match[1])
    return found


def compare(document: dict[str, Any], expected: dict[str, dict[str, float]], noise: float) -> float:
    """The largest difference of a KLD; SystemExit where a number is another by more than noise."""
    worst = 0.0
    compare_ppl(document["reference"], expected[REFERENCE], noise)
    for candidate in document["candidates"]:
        theirs = expected[candidate["name"]]
        compare_ppl(candidate, theirs, noise)
        difference = abs(candidate["kld_mean"] - theirs["kld_mean"])
        if difference > KLD_ATOL + max(KLD_RTOL, noise) * theirs["kld_mean"]:
            sys.exit(f"{candidate['name']}: KLD {candidate['kld_mean']} here, {theirs} there")
        worst = max(worst, difference)
    return worst


def compare_ppl(ours: dict[str, Any], theirs: dict[str, float], noise: float) -> None:
    if not math.isclose(ours["ppl"], theirs["ppl"], rel_tol=max(PPL_RTOL, noise)):
        sys.exit(f"{ours['name']}: PPL {ours['ppl']} here, {theirs['ppl']} there")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-perplexity")
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--types", default="Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,IQ4_XS")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=0, help="tokens of a random-weight model")
    parser.add_argument("--model", type=Path, help="with random weights, in place of the demo's")
    parser.add_argument("--text", type=Path, help="default: generated")
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.tools = arguments.tools.resolve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        bench = Bench(arguments, Path(name))
        samples = bench.measure()
        n_passes = 1 + len(bench.candidates)
        beside = samples.peak_bytes - bench.model_bytes
    theirs, ours = statistics.median(samples.theirs), statistics.median(samples.ours)
    spread = (max(samples.ours) - min(samples.ours)) / ours
    print(f"{arguments.chunks} chunks of {CTX} tokens, {arguments.threads} threads, "
          f"{arguments.model or 'the demo'}, vocabulary {arguments.vocab or 'its own'}, "
          f"{cpu_name()}")  # fmt: skip
    print(f"llama-perplexity, {n_passes} passes {theirs:10.2f} s   base file "
          f"{samples.base_bytes / 1e6:,.0f} MB")  # fmt: skip
    print(f"apex-native eval             {ours:10.2f} s   written {samples.written_bytes:,} bytes, "
          f"spread {spread:.0%}")  # fmt: skip
    print(
        f"ours / theirs {ours / theirs:.3f}; peak memory {beside / (1 << 20):,.0f} MiB beside "
        f"the models; largest difference of a KLD {samples.largest_kld_difference:.1e}"
    )
    print(
        json.dumps(
            {
                "benchmark": "eval_vs_llama",
                "ratio": round(theirs / ours, 3),
                "share": round(ours / theirs, 3),
                "theirs_s": samples.theirs,
                "ours_s": samples.ours,
                "base_bytes": samples.base_bytes,
                "written_bytes": samples.written_bytes,
                "peak_bytes_beside_models": beside,
                "chunks": arguments.chunks,
                "threads": arguments.threads,
                "vocab": arguments.vocab,
                "model": str(arguments.model or ""),
                "types": arguments.types,
                "machine": cpu_name(),
                "version": apex.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
