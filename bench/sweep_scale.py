"""How a sweep scales: a simulation of many workers over recorded job times, by the real queue.

    python bench/sweep_scale.py [--store kept/sweep.sqlite] [--probes 2000] [--workers 1,4,16,64]
        [--start-s 60] [--driver-ms 5] [--seed 1]

Every probe is one job with a model of its own. Its time is drawn from the store's score jobs
(without a store: 30 s, log-normal, sigma 0.3). start-s: what a worker needs before its first job
(loading the reference, computing its states); driver-ms: what the driver spends on a job, one after
the other (bench/sweep_workers.py measures it). The order is that of `sweeps.queue`; nothing else of
the sweep is simulated. efficiency: time of one worker over the time of n, over n. Prints a table,
and a line of JSON last.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from apex_native.sweeps import SweepStore
from apex_native.sweeps.jobs import Block, Candidate, ScoreJob
from apex_native.sweeps.queue import JobQueue

SIGMA = 0.3
"""Spread of candidates of one model where nothing was recorded: types differ in speed."""

TYPICAL_S = 30.0


@dataclass(frozen=True)
class Scale:
    """One number of workers: hours, efficiency, share of the driver's time that is taken."""

    workers: int
    hours: float
    efficiency: float
    driver_busy: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--workers", default="1,4,16,64")
    parser.add_argument("--start-s", type=float, default=60.0)
    parser.add_argument("--driver-ms", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    times = draw_times(args.store, args.probes, args.seed)
    counts = [int(text) for text in args.workers.split(",")]
    alone = simulate(times, 1, args.start_s, args.driver_ms / 1000)
    rows = []
    for n in counts:
        seconds = simulate(times, n, args.start_s, args.driver_ms / 1000)
        busy = len(times) * args.driver_ms / 1000 / seconds
        rows.append(Scale(n, seconds / 3600, alone / seconds / n, busy))
    print(
        f"{len(times)} probes, {np.mean(times):.2f} s each on average, {np.sum(times) / 3600:.1f} h"
    )
    print("workers      hours   efficiency   driver busy")
    for row in rows:
        print(
            f"{row.workers:7}   {row.hours:8.3f}   {row.efficiency:9.1%}   {row.driver_busy:10.2%}"
        )
    print(json.dumps({"probes": len(times), "mean_s": float(np.mean(times)),
                      "rows": [asdict(row) for row in rows]}))  # fmt: skip
    return 0


def draw_times(store: Path | None, n: int, seed: int) -> list[float]:
    """Seconds of n probes."""
    rng = random.Random(seed)
    if store is None:
        return [rng.lognormvariate(math.log(TYPICAL_S), SIGMA) for _ in range(n)]
    with SweepStore(store) as opened:
        recorded = opened.seconds("score")
    if not recorded:
        raise SystemExit(f"{store} has no score jobs; run a sweep with it first")
    return [rng.choice(recorded) for _ in range(n)]


def simulate(times: Sequence[float], n_workers: int, start_s: float, driver_s: float) -> float:
    """Seconds until the last job is done: workers in parallel, the driver one job at a time."""
    block = Block("probe", 0, b"", 1, 1)
    jobs = [ScoreJob(Candidate(str(i), plan=str(i)), block) for i in range(len(times))]
    queue = JobQueue(jobs)
    free = [(start_s, worker) for worker in range(n_workers)]
    heapq.heapify(free)
    driver_free = last = 0.0
    while free:
        now, worker = heapq.heappop(free)
        job = queue.next(worker)
        if isinstance(job, ScoreJob):
            driver_free = max(driver_free, now) + driver_s
            end = driver_free + times[int(job.candidate.name)]
            last = max(last, end)
            heapq.heappush(free, (end, worker))
    return last


if __name__ == "__main__":
    raise SystemExit(main())
