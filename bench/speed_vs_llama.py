"""apex-native bench against llama-bench: the same model, tests and threads, processes in turn.

    python bench/speed_vs_llama.py --tools build/reference/reference [--model PATH] [--threads N]
        [-p 512,8192] [-n 128] [-pg 512,128] [-b 2048] [-ub 512] [--type-k f16] [--type-v f16]
        [--rounds N] [--repetitions N] [--jsonl PATH]

Each round runs one process of each, the order changing from round to round; ``ratio`` is ours /
theirs in tokens per second, the median over the rounds of the medians within each. Prints a table
and, as the last line, a JSON object. Exits with 1 if a ratio is further than 5 % from 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apex_native as apex
from apex_native.machine import cpu_name

LARGEST_DIFFERENCE = 0.05


@dataclass
class Row:
    """One test: tokens per second, the samples of all rounds kept apart."""

    test: str
    theirs_samples: list[list[float]] = field(default_factory=list)
    ours_samples: list[list[float]] = field(default_factory=list)

    @property
    def theirs(self) -> float:
        return statistics.median(s for samples in self.theirs_samples for s in samples)

    @property
    def ours(self) -> float:
        return statistics.median(s for samples in self.ours_samples for s in samples)

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.ours_samples, self.theirs_samples, strict=True)
        return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        return (max(self.ratios) - min(self.ratios)) / self.ratio


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def common_options(arguments: argparse.Namespace) -> list[str]:
    """What both programs spell alike."""
    options = ["-p", arguments.p, "-n", arguments.n, "-b", arguments.b, "-ub", arguments.ub]
    options += ["-ctk", arguments.type_k, "-ctv", arguments.type_v]
    options += ["-t", str(arguments.threads), "-r", str(arguments.repetitions)]
    for pair in arguments.pg or ():
        options += ["-pg", pair]
    return options


def theirs(arguments: argparse.Namespace) -> list[tuple[str, list[float]]]:
    tool = arguments.tools / "llama-bench"
    command = [str(tool), "-m", str(arguments.model), "-ngl", "0", "-o", "jsonl"]
    found = []
    for line in output_of([*command, *common_options(arguments)]).splitlines():
        record = json.loads(line)
        lengths = (("pp", record["n_prompt"]), ("tg", record["n_gen"]))
        test = "+".join(f"{kind}{n}" for kind, n in lengths if n)
        kinds = f"{test} {record['type_k']}/{record['type_v']}"
        batch = f"{record['n_batch']}/{record['n_ubatch']}"
        found.append((f"{kinds} {batch}", record["samples_ts"]))
    return found


def ours(arguments: argparse.Namespace) -> list[tuple[str, list[float]]]:
    command = [sys.executable, "-m", "apex_native", "bench", str(arguments.model), "--json"]
    command += ["--quiet", "--beyond-context"]
    found = []
    for record in json.loads(output_of([*command, *common_options(arguments)]))["tests"]:
        used = record["settings"]
        kinds = f"{record['test']} {used['type_k']}/{used['type_v']}"
        found.append((f"{kinds} {used['n_batch']}/{used['n_ubatch']}", record["samples"]))
    return found


def run(arguments: argparse.Namespace) -> list[Row]:
    rows: dict[str, Row] = {}
    for i in range(arguments.rounds):
        sides = [theirs, ours] if i % 2 == 0 else [ours, theirs]
        results = {side: side(arguments) for side in sides}
        names = [[test for test, _ in results[side]] for side in (theirs, ours)]
        if names[0] != names[1]:
            sys.exit(f"the programs ran different tests: {names[0]} and {names[1]}")
        for (test, their_samples), (_, our_samples) in zip(
            results[theirs], results[ours], strict=True
        ):
            row = rows.setdefault(test, Row(test))
            row.theirs_samples.append(their_samples)
            row.ours_samples.append(our_samples)
    return list(rows.values())


def print_table(rows: list[Row]) -> None:
    print(f"{'test':34} {'llama-bench':>12} {'apex-native':>12} {'ratio':>7} {'spread':>7}")
    for row in rows:
        print(
            f"{row.test:34} {row.theirs:12.2f} {row.ours:12.2f} {row.ratio:7.3f} {row.spread:7.1%}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, default=Path("build/reference/reference"))
    parser.add_argument("--model", type=Path, help="default: the demo model in Q4_K_M")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-p", default="512,8192")
    parser.add_argument("-n", default="128")
    parser.add_argument("-pg", action="append")
    parser.add_argument("-b", default="2048")
    parser.add_argument("-ub", default="512")
    parser.add_argument("--type-k", default="f16")
    parser.add_argument("--type-v", default="f16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--jsonl", type=Path, help="keep all samples here")
    return parser.parse_args()


def quantized_demo(folder: Path) -> Path:
    """The demo model in a type that both programs multiply with ggml's kernels: BF16 products are
    ours, and faster."""
    path = folder / "demo-Q4_K_M.gguf"
    with apex.open_gguf(apex.demo_model()) as model:
        apex.quantize(model, apex.make_plan(model, ftype="Q4_K_M"), path)
    return path


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        arguments.model = arguments.model or quantized_demo(Path(folder))
        rows = run(arguments)
    print_table(rows)
    last: dict[str, Any] = {
        "benchmark": "speed_vs_llama",
        "model": arguments.model.name,
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "repetitions": arguments.repetitions,
        "ratio": {row.test: round(row.ratio, 4) for row in rows},
        "spread": {row.test: round(row.spread, 4) for row in rows},
    }
    if arguments.jsonl:
        lines = [json.dumps(asdict(row)) for row in rows]
        arguments.jsonl.write_text("\n".join([*lines, json.dumps(last)]) + "\n")
    print(json.dumps(last))
    return int(any(abs(row.ratio - 1) > LARGEST_DIFFERENCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
