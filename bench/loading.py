"""How fast a model is loaded that is not in memory, and whether another one computes meanwhile.

    python bench/loading.py MODEL.gguf [CANDIDATE.gguf ...] [--rounds 5] [--threads N]
        [--chunks 2] [--json PATH]

The files must lie on storage, not in memory, and nobody else may have them open: before each
measurement their pages are put out of the page cache (posix_fadvise, checked with mincore).

Loading MODEL, in GiB/s of its file:

    plain      one thread reads it, a MiB at a time, as dd does
    llama.cpp  the loader alone: mapped, page fault by page fault
    ours       `load_model`, which reads ahead with several threads

With candidates, seconds of an evaluation in two passes:

    cold       no candidate is in memory; each is read while the model before it computes
    waiting    the same without reading ahead while others compute
    warm       all candidates are in memory

The ways take turns, in an order that changes by the round. Ratios are within a round; a row has
their median, and as spread (largest - smallest) / median. Scores of all ways must be equal. Ends
with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import load_model
from apex_native.evaluation import Text
from apex_native.evaluation.model_pool import ModelPool
from apex_native.machine import cpu_name, usable_threads

GIB = 1 << 30
BLOCK = 1 << 20
Way = Callable[[], float]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("candidates", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="append the figures to this file")
    args = parser.parse_args()
    figures: dict[str, object] = {"machine": cpu_name(), "threads": args.threads}
    figures["loading"] = measure_loading(args)
    if args.candidates:
        figures["two passes"] = measure_overlap(args)
    print(json.dumps(figures))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
    return 0


def measure_loading(args: argparse.Namespace) -> dict[str, object]:
    path: Path = args.model
    gib = path.stat().st_size / GIB

    def rate(load: Callable[[], object]) -> float:
        evict(path)
        begin = time.perf_counter()
        loaded = load()
        seconds = time.perf_counter() - begin
        del loaded
        return gib / seconds

    rounds = take_turns(args.rounds, {
        "plain": lambda: rate(lambda: read_plainly(path)),
        "llama.cpp": lambda: rate(lambda: core.Model(str(path))),
        "ours": lambda: rate(lambda: load_model(path, n_threads=args.threads).native),
    })  # fmt: skip
    print(f"\nLoading {path.name}, {gib:.1f} GiB, not in memory:\n")
    return print_table(rounds, "GiB/s", "plain")


def measure_overlap(args: argparse.Namespace) -> dict[str, object]:
    paths = [args.model, *args.candidates]
    text = Text("text", demo_text(40_000 + 4_000 * args.chunks, seed=3))
    scores: list[tuple[np.ndarray, ...]] = []
    read_ahead = ModelPool.read_ahead

    def seconds(*, warm: bool = False, waiting: bool = False) -> float:
        for path in paths:
            read_plainly(path) if warm or path == args.model else evict(path)
        if waiting:
            ModelPool.read_ahead = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            begin = time.perf_counter()
            found = apex.evaluate(*paths[:1], paths[1:], text, chunks=args.chunks, two_pass=True,
                                  n_threads=args.threads, noise_chunks=0)  # fmt: skip
            took = time.perf_counter() - begin
        finally:
            ModelPool.read_ahead = read_ahead  # type: ignore[method-assign]
        scores.append(tuple(tokens.nll for tokens in found.tokens.values()))
        return took

    rounds = take_turns(args.rounds, {
        "warm": lambda: seconds(warm=True),
        "waiting": lambda: seconds(waiting=True),
        "cold": lambda: seconds(),
    })  # fmt: skip
    for other in scores[1:]:
        if not all(np.array_equal(a, b) for a, b in zip(scores[0], other, strict=True)):
            sys.exit("the scores are not equal")
    gib = sum(path.stat().st_size for path in paths[1:]) / GIB
    print(f"\nTwo passes, {args.chunks} chunks, candidates of {gib:.1f} GiB:\n")
    return print_table(rounds, "s", "warm")


def take_turns(n_rounds: int, ways: dict[str, Way]) -> dict[str, list[float]]:
    """Figures of each way, round by round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(n_rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(ways[name]())
            print(f"round {i + 1}: {name} {found[name][-1]:.2f}", file=sys.stderr, flush=True)
    return found


def print_table(rounds: dict[str, list[float]], unit: str, beside: str) -> dict[str, object]:
    print(f"| | {unit} | lowest | highest | / {beside} | spread |")
    print("|---|---|---|---|---|---|")
    for name, values in rounds.items():
        ratios = [a / b for a, b in zip(values, rounds[beside], strict=True)]
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | "
              f"{max(values):.2f} | {statistics.median(ratios):.2f} | {spread(ratios):.0%} |",
              flush=True)  # fmt: skip
    return {"unit": unit, "beside": beside, "rounds": rounds}


def spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def read_plainly(path: Path) -> None:
    room = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(room):
            pass


def evict(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    ahead = core.ReadAhead(str(path))  # the header is looked at, which brings some of it back
    left = ahead.n_bytes - ahead.n_absent_bytes
    if left > ahead.n_bytes // 20:
        sys.exit(f"{path}: {left:,} bytes stay in memory; is it mapped, or on a tmpfs?")


if __name__ == "__main__":
    sys.exit(main())
