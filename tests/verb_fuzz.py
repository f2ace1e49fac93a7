"""Verbs on valid models with something wrong: settings swapped, arrays cut, shapes turned.

``python tests/verb_fuzz.py --cases 10000`` prints a table; a case is one verb on one
mutated model. ``--first N`` begins with another case, so that machines share the work.
A worker process runs the cases and is replaced where it dies, so that a death is counted and the
case can be run again alone with ``--seed S --only N``. Nothing here aims at a fault: mutations are
drawn blindly, from a seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.cli.errors import EXIT_INVALID
from model_kinds import write_kind
from verb_mutations import Parts, read_parts, write_mutant
from verb_runs import VERBS, complaints, run_verb, write_inputs

__all__ = ["BASES", "Case", "Tally", "fuzz", "run_cases"]

BASES = ("model", "encoder", "encoder–decoder", "embedder", "no vocabulary", "recurrent")
OUTCOMES = ("result", "sentence", "usage", "bad message", "died")
WRONG = ("bad message", "died")
TIME_LIMIT_S = 600
"""Of the clock: far more than a case takes on a machine that is used by others too."""
# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One verb on one mutated model; its number and the seed say all."""

    number: int
    base: str
    mutations: str
    verb: str
    outcome: str
    detail: str = ""


def _bases(folder: Path) -> dict[str, Parts]:
    from calibration_models import write_recurrent_model

    bases = {}
    for name in BASES:
        if name == "recurrent":
            path = write_recurrent_model(folder / "recurrent.gguf")
        else:
            path = write_kind(name, folder / f"base{BASES.index(name)}")
        bases[name] = read_parts(path)
    return bases


def run_cases(seed: int, first: int, count: int, report: Callable[[Case], None]) -> None:
    """Run cases first to first + count - 1; report is called before and after each."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_inputs(work)
        bases = _bases(work)
        path = work / "mutant.gguf"
        written = -1
        label = ("", "")
        for number in range(first, first + count):
            model, verb = number // len(VERBS), VERBS[number % len(VERBS)]
            if model != written:
                rng = random.Random(f"{seed} {model}")
                name = rng.choice(BASES)
                label = (name, write_mutant(path, bases[name], rng))
                written = model
            report(Case(number, *label, verb, "died"))
            report(Case(number, *label, verb, *_outcome(verb, path, work)))


def _outcome(verb: str, path: Path, work: Path) -> tuple[str, str]:
    signal.alarm(TIME_LIMIT_S)
    code, stdout, stderr = run_verb(verb, str(path), str(work))
    signal.alarm(0)
    bad = complaints(stdout + stderr)
    if bad or code not in (0, 1, 2, EXIT_INVALID):
        return "bad message", f"exit code {code}: {stderr.strip()[-400:]}"
    if code != 0 and not stderr.strip():
        return "bad message", "a failure without a word"
    return {0: "result", 1: "sentence", 2: "usage", EXIT_INVALID: "result"}[code], ""


class Tally:
    """What came of the cases, and those that went wrong."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.wrong: list[Case] = []

    def add(self, case: Case) -> None:
        self.counts[case.verb, case.outcome] += 1
        if case.outcome in WRONG:
            self.wrong.append(case)

    def table(self) -> str:
        """Markdown: a row for each verb."""
        lines = ["| verb | " + " | ".join(OUTCOMES) + " |", "|---|" + "--:|" * len(OUTCOMES)]
        for verb in VERBS:
            cells = [f"{self.counts[verb, outcome]:,}" for outcome in OUTCOMES]
            lines.append(f"| {verb} | " + " | ".join(cells) + " |")
        total = [f"{sum(self.counts[v, o] for v in VERBS):,}" for o in OUTCOMES]
        return "\n".join([*lines, "| all | " + " | ".join(total) + " |"])


def fuzz(
    seed: int,
    first: int,
    count: int,
    progress: Callable[[Case], None] | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Run the cases in workers, a new one after each death; tally is added to as they come."""
    tally = tally or Tally()
    end = first + count
    while first < end:
        last = None
        for case in _worker(seed, first, end - first):
            if case.outcome == "died" and (last is None or last.number != case.number):
                last = case
                continue
            tally.add(case)
            if progress is not None:
                progress(case)
            last = None
            first = case.number + 1
        if last is not None:
            tally.add(last)
            print(f"died: {last}", file=sys.stderr)
            first = last.number + 1
    return tally


def _worker(seed: int, first: int, count: int) -> Any:
    command = [sys.executable, __file__, "--worker", "--seed", str(seed)]
    command += ["--first", str(first), "--cases", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Case(**json.loads(line))


def _work(seed: int, first: int, count: int) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(case: Case) -> None:
        out.write(json.dumps(case.__dict__) + "\n")
        out.flush()

    run_cases(seed, first, count, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.seed, options.first, options.cases)
        return

    tally = Tally()

    def show(case: Case) -> None:
        if case.outcome in WRONG:
            print(case, file=sys.stderr)
        if case.number % 500 == 499:
            print(f"{case.number + 1 - options.first:,} cases", file=sys.stderr)

    with contextlib.suppress(KeyboardInterrupt):  # what was done until then
        fuzz(options.seed, options.first, options.cases, show, tally)
    print(tally.table())
    for case in tally.wrong:
        print(f"\n{case.number}: {case.verb} on {case.base} ({case.mutations}): {case.outcome}")
        print(f"    {case.detail}")


if __name__ == "__main__":
    main()
