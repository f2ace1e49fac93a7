"""What kill -9 at a random moment costs: every long verb, killed and run again.

    python bench/kill_and_resume.py [--kills 50] [--verbs quantize,imatrix,eval,tasks] [--threads 2]
        [--seed 1] [--long] [--jobs 1]

Each verb works on the demo model. It runs once to its end, which gives the result and the time it
takes; then it is started in a fresh folder, killed at a moment drawn uniformly from that time and a
tenth more, and started again with `--resume` (eval and tasks resume by themselves). The result must
be the first one's: the same bytes of a GGUF, the same values of a results file. "Repeated" is the
time of both runs together beyond that of the whole run, start of the program included; it must be
under a minute. `--long` makes the jobs take minutes, where checkpoints are what saves the work.
Prints a Markdown table; exits 1 where a result differs or more was repeated. A kill within an
atomic write leaves its temporary file, which is counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apex_native as apex
from apex_native.demo_text import demo_text

REPEATED_AT_MOST_S = 60.0
"""Promised for a kill at any moment."""


@dataclass(frozen=True)
class Job:
    """A verb's command line but for where its output goes, and how its result is compared."""

    arguments: tuple[str, ...]
    output: str
    resume: tuple[str, ...]
    digest: Callable[[Path], str]
    refuses_finished: bool = False


@dataclass(frozen=True)
class Kill:
    """One kill: when, what the second run took, and whether all is as it should be."""

    at_s: float
    was_running: bool
    rerun_s: float
    is_same: bool
    left_over: tuple[str, ...]

    def repeated_s(self, whole_s: float) -> float:
        return max(0.0, self.at_s + self.rerun_s - whole_s) if self.was_running else 0.0


def bytes_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def values_digest(path: Path) -> str:
    """Of everything a results file says but when it was made and how long that took."""
    document = json.loads(path.read_text("utf-8"))
    return hashlib.sha256(json.dumps(_timeless(document), sort_keys=True).encode()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(v)
            for key, v in value.items()
            if key != "created" and not key.endswith(("_s", "elapsed"))
        }
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def write_inputs(folder: Path, scale: int) -> None:
    (folder / "text.txt").write_text(demo_text(40_000 * scale, seed=3), encoding="utf-8")
    sentences = [s.strip() for s in demo_text(40_000 * scale, seed=5).split(". ") if len(s) > 30]
    rng = random.Random(1)
    lines = []
    for _ in range(60 * scale):
        lines += [rng.choice(sentences), str(rng.randrange(4)), *rng.sample(sentences, 4)]
    one_line = [" ".join(line.split()) for line in lines]
    (folder / "hellaswag.txt").write_text("\n".join(one_line) + "\n", encoding="utf-8")


def jobs(inputs: Path, threads: int) -> dict[str, Job]:
    model, text = str(apex.demo_model()), str(inputs / "text.txt")
    matrix = str(apex.demo_imatrix())
    t = ("--threads", str(threads))
    small = str(inputs / "compact.gguf")
    return {
        "quantize": Job(
            ("quantize", model, "--tier", "micro", "--imatrix", matrix, *t),
            *("out.gguf", ("--resume",), bytes_digest, True),
        ),
        "imatrix": Job(("imatrix", model, "-f", text, *t), "out.gguf", ("--resume",), bytes_digest),
        "eval": Job(("eval", "-r", model, small, "-f", text, *t), "out.json", (), values_digest),
        "tasks": Job(
            ("eval", model, small, "--hellaswag", str(inputs / "hellaswag.txt"), *t),
            *("out.json", (), values_digest),
        ),
    }


def command(job: Job, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "apex_native", *job.arguments),
        *("-o", str(folder / job.output), "--quiet", *more),
    ]


def run(job: Job, folder: Path, *more: str) -> float:
    """Seconds of a whole run."""
    begin = time.monotonic()
    done = subprocess.run(command(job, folder, *more), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command(job, folder, *more))}\n{done.stderr}")
    return time.monotonic() - begin


def kill_once(job: Job, at_s: float, expected: str, files: set[str]) -> Kill:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic()
        with subprocess.Popen(
            command(job, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(at_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            at_s = time.monotonic() - begin
            was_running = process.returncode == -signal.SIGKILL
        # quantize refuses to write over a finished file, and there is nothing left to do.
        is_done = job.refuses_finished and (folder / job.output).exists()
        rerun_s = 0.0 if is_done else run(job, folder, *job.resume)
        left_over = tuple(sorted({path.name for path in folder.iterdir()} - files))
        is_same = job.digest(folder / job.output) == expected
        return Kill(at_s, was_running, rerun_s, is_same, left_over)


def kill_often(job: Job, n: int, rng: random.Random, n_jobs: int) -> tuple[float, list[Kill]]:
    """Seconds of the whole run, and the kills."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_s = run(job, folder)
        expected = job.digest(folder / job.output)
        files = {path.name for path in folder.iterdir()}
    moments = [rng.uniform(0, whole_s * 1.1) for _ in range(n)]
    with ThreadPoolExecutor(n_jobs) as pool:
        kills = list(pool.map(lambda at_s: kill_once(job, at_s, expected, files), moments))
    return whole_s, kills


def row(verb: str, whole_s: float, kills: list[Kill]) -> str:
    running = [kill for kill in kills if kill.was_running]
    repeated = [kill.repeated_s(whole_s) for kill in running] or [0.0]
    same = sum(kill.is_same for kill in kills)
    left = sum(bool(kill.left_over) for kill in kills)
    return (
        f"| {verb} | {whole_s:.1f} | {len(kills)} | {len(running)} | {same} | {left} | "
        f"{statistics.median(repeated):.1f} | {max(repeated):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--verbs", default="quantize,imatrix,eval,tasks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="kills at the same time")
    parser.add_argument("--long", action="store_true", help="jobs of minutes")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print("| verb | whole run, s | kills | while it ran | same result | files left over | "
          "repeated, s: median | largest |\n|---|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    failed = False
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name)
        write_inputs(inputs, 40 if options.long else 1)
        with apex.open_gguf(apex.demo_model()) as source:
            plan = apex.make_plan(source, tier="compact")
            apex.quantize(source, plan, inputs / "compact.gguf", n_threads=options.threads)
        known = jobs(inputs, options.threads)
        for verb in options.verbs.split(","):
            whole_s, kills = kill_often(known[verb], options.kills, rng, options.jobs)
            print(row(verb, whole_s, kills), flush=True)
            for kill in kills:
                late = kill.repeated_s(whole_s) > REPEATED_AT_MOST_S
                if late or not kill.is_same:
                    print(f"{verb}: {kill}", file=sys.stderr)
                    failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
