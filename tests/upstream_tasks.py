"""What llama-perplexity says of a task file, item by item."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from apex_native.evaluation.tasks import TaskKind
from upstream_programs import run_upstream

_OPTIONS = {
    TaskKind.HELLASWAG: ("-f", "--hellaswag", "--hellaswag-tasks"),
    TaskKind.WINOGRANDE: ("-f", "--winogrande", "--winogrande-tasks"),
    TaskKind.MULTIPLE_CHOICE: ("-bf", "--multiple-choice", "--multiple-choice-tasks"),
}


@dataclass(frozen=True)
class UpstreamRun:
    """correct has one entry an item; scores both of each Winogrande item, else nothing."""

    correct: list[bool]
    scores: list[tuple[float, float]]
    interval: tuple[float, float] | None
    """HellaSwag's Wilson interval in percent."""
    elapsed_s: float


def run_llama_perplexity(
    tools: Path,
    model: Path,
    kind: TaskKind,
    file: Path,
    *,
    n_tasks: int,
    n_threads: int,
    n_parallel: int | None = None,
) -> UpstreamRun:
    """Run the program; RuntimeError with its last words where it fails."""
    file_option, task_option, limit_option = _OPTIONS[kind]
    program = tools / "llama-perplexity"
    command = ["-m", str(model), file_option, str(file)]
    command += [task_option, limit_option, str(n_tasks), "-t", str(n_threads)]
    command += [] if n_parallel is None else ["-np", str(n_parallel)]
    start = time.perf_counter()
    done = run_upstream(program, *command, check=False)
    elapsed = time.perf_counter() - start
    rows = [line.split("\t") for line in done.stdout.splitlines() if re.match(r"\d+\t", line)]
    if done.returncode or not rows:
        raise RuntimeError(
            f"{program} {' '.join(command)}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )
    counts = [0, *(round(float(row[1].rstrip("%")) * (i + 1) / 100) for i, row in enumerate(rows))]
    correct = [now > before for before, now in pairwise(counts)]
    scores: list[tuple[float, float]] = []
    interval = None
    if kind is TaskKind.WINOGRANDE:
        scores = [(float(a), float(b)) for a, b in (row[2].split()[:2] for row in rows)]
    elif kind is TaskKind.HELLASWAG:
        low, high = re.findall(r"[\d.]+", rows[-1][2])
        interval = (float(low), float(high))
    return UpstreamRun(correct, scores, interval, elapsed)
