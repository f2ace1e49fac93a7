"""Tasks against llama-perplexity: the same file, selection and threads, from load to score.

    python bench/tasks_vs_llama.py --tools build/reference/reference [--model MODEL.gguf]
        [--types bf16,Q4_K_M] [--items 400] [--threads N] [--repeat N] [--parallel NP]

Theirs is a whole process with its defaults (``-np 4``: one HellaSwag task a batch), or with
--parallel what it can do at best (128). Ours is reading the file, loading the model, scoring and
statistics in this process. Models of other types are quantized from the given one first. Prints a
table and, as the last line, a JSON object with ``ratio`` (geometric mean of theirs / ours). Exits
with 1 if more than 3 % of a file's items are answered otherwise (with its bugs reproduced, which
takes a run of its own that is not timed): rounding that depends on the shape of a batch decides
near-ties. The column "np" shows how many of its own answers change with ``-np 64``; in Winogrande
that is its bugs, which depend on the batch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native.engine import Placement
from apex_native.evaluation import ModelUnderTest
from apex_native.evaluation.tasks import TaskKind, TaskOptions, TaskSpec, evaluate_tasks, open_tasks
from apex_native.results import unpack_items

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from task_files import WRITERS
from upstream_tasks import run_llama_perplexity

MAX_DIFFERENT = 0.03


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in items a second, raw samples in seconds."""

    model: str
    task: str
    n_items: int
    theirs_per_s: float
    ours_per_s: float
    ratio: float
    spread: float
    theirs_score: float
    ours_score: float
    n_different: int
    n_different_np: int
    theirs_samples: list[float]
    ours_samples: list[float]


def _measure(arguments: argparse.Namespace, model: Path, kind: TaskKind, file: Path) -> Row:
    def theirs(n_parallel: int | None) -> tuple[float, list[bool]]:
        run = run_llama_perplexity(
            arguments.tools,
            model,
            kind,
            file,
            n_tasks=arguments.items,
            n_threads=arguments.threads,
            n_parallel=n_parallel,
        )
        return run.elapsed_s, run.correct

    def ours(*, compat: bool = False) -> tuple[float, list[bool]]:
        start = time.perf_counter()
        tasks = open_tasks(TaskOptions((TaskSpec(kind, str(file)),), arguments.items, compat))
        tested = ModelUnderTest(model, placement=Placement(n_threads=arguments.threads))
        scores = evaluate_tasks({"model": tested}, tasks, compat=compat)
        elapsed = time.perf_counter() - start
        (score,) = scores["model"]
        return elapsed, list(unpack_items(score.items or "", score.n))

    their_samples, our_samples = [], []
    for _ in range(arguments.repeat):
        seconds, their_answers = theirs(arguments.parallel)
        their_samples.append(seconds)
        seconds, our_answers = ours()
        our_samples.append(seconds)
    other_answers, same_bugs = theirs(64)[1], ours(compat=True)[1]
    n = len(our_answers)
    theirs_s, ours_s = statistics.median(their_samples), statistics.median(our_samples)
    return Row(
        model=model.stem,
        task=kind.value,
        n_items=n,
        theirs_per_s=n / theirs_s,
        ours_per_s=n / ours_s,
        ratio=theirs_s / ours_s,
        spread=(max(our_samples) - min(our_samples)) / ours_s,
        theirs_score=sum(their_answers) / n,
        ours_score=sum(our_answers) / n,
        n_different=sum(a != b for a, b in zip(their_answers, same_bugs, strict=True)),
        n_different_np=sum(a != b for a, b in zip(their_answers, other_answers, strict=True)),
        theirs_samples=their_samples,
        ours_samples=our_samples,
    )


def _models(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    source = arguments.model or apex.demo_model()
    models = []
    for type in arguments.types.split(","):
        if type.lower() in ("bf16", "source"):
            models.append(source)
            continue
        with apex.open_gguf(source) as opened:
            plan = apex.make_plan(opened, ftype=type)
            models.append(folder / f"{type}.gguf")
            apex.quantize(opened, plan, models[-1], n_threads=arguments.threads)
    return models


def _print_rows(rows: list[Row]) -> None:
    print(
        "model                    task             items  theirs/s    ours/s   ratio  spread"
        "  score theirs/ours  differ  np"
    )
    for row in rows:
        print(
            f"{row.model[:24]:24} {row.task:15} {row.n_items:6} {row.theirs_per_s:9.1f} "
            f"{row.ours_per_s:9.1f} {row.ratio:6.2f}x {100 * row.spread:5.1f} % "
            f"{100 * row.theirs_score:8.2f} / {100 * row.ours_score:6.2f}  {row.n_different:6} "
            f"{row.n_different_np:3}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-perplexity")
    parser.add_argument("--model", type=Path, help="default: the demo model")
    parser.add_argument("--types", default="bf16,Q4_K_M")
    parser.add_argument("--tasks", default=",".join(TaskKind))
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parallel", type=int, help="llama-perplexity's -np")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = _models(arguments, folder)
        for task in arguments.tasks.split(","):
            kind = TaskKind(task)
            file = folder / f"{task}.bin"
            # One more than asked: the last line of a Winogrande file is lost on llama-perplexity.
            n_written = arguments.items + (1 if kind is TaskKind.WINOGRANDE else 0)
            content = WRITERS[task](n_written)
            file.write_bytes(content + (b"\n" if kind is TaskKind.WINOGRANDE else b""))
            for model in models:
                row = _measure(arguments, model, kind, file)
                rows.append(row)
                print(f"  {row.model} {task}: {row.ratio:.2f}x", file=sys.stderr)
    _print_rows(rows)
    ratio = math.exp(statistics.fmean(math.log(row.ratio) for row in rows))
    print(
        json.dumps(
            {
                "benchmark": "tasks_vs_llama",
                "ratio": round(ratio, 3),
                "threads": arguments.threads,
                "machine": platform.processor() or platform.machine(),
                "version": apex.__version__,
                "rows": [asdict(row) for row in rows],
            }
        )
    )
    return int(any(row.n_different > MAX_DIFFERENT * row.n_items for row in rows))


if __name__ == "__main__":
    sys.exit(main())
