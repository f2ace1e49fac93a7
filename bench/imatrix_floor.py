"""What a floor under silent columns does to the KLD of small files.

    python bench/imatrix_floor.py --calibration a.txt b.txt ... --evaluation wiki.txt ...
        [--floors 0,1e-6,1e-4,...] [--types mini,Q3_K_M,...] [--chunks 24]

Calibrates the demo model, quantizes with every floor under the default prior and measures the KL
divergence from the BF16 model over the ends of the evaluation texts, in two arms: with the matrix
as it is, where a floor can only do harm, and with a sixteenth of every weight's columns silenced
(the runs of 16 adjacent columns that calibration found least important are set to sums of zero), as
channels are that a narrow text leaves silent. Prints a table, differences with their 95 % interval
against floor 0 over the same chunks, and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import apex_native as apex
from apex_native.imatrix import DEFAULT_PRIOR, Imatrix, ImatrixEntry
from apex_native.plan import tier_names
from divergence import Divergence, calibration_chunks, divergences, text_end

RUN = 16
"""Adjacent columns silenced together: a block of Q6_K has one scale for 16."""

SILENCED = 16
"""One run in so many."""


@dataclass(frozen=True)
class Row:
    """One file."""

    text: str
    arm: str
    recipe: str
    floor: float
    measured: Divergence

    def __str__(self) -> str:
        found = self.measured
        change = "" if found.low is None else f"{found.low:+.5f} to {found.high:+.5f}"
        return (
            f"{self.text:12} {self.arm:9} {self.recipe:10} {self.floor:8g} {found.kld:9.5f} ± "
            f"{found.error:.5f} {found.p99:8.4f}   {change}"
        )


def silenced(entry: ImatrixEntry) -> ImatrixEntry:
    """The entry with its least important runs of columns at zero, the same for all experts."""
    n_runs = entry.sums.shape[1] // RUN
    if n_runs < SILENCED:
        return entry
    totals = entry.sums.sum(axis=0, dtype=np.float64)[: n_runs * RUN].reshape(n_runs, RUN)
    sums = entry.sums.copy()
    for run in np.argsort(totals.sum(axis=1))[: n_runs // SILENCED]:
        sums[:, run * RUN : (run + 1) * RUN] = 0
    return ImatrixEntry.from_sums(sums, entry.counts)


def measure(
    imatrix: Imatrix, recipe: str, floors: Sequence[float], texts: dict[str, str], threads: int
) -> dict[str, list[Divergence]]:
    base: dict[str, Any] = {"tier" if recipe in tier_names() else "ftype": recipe}
    with tempfile.TemporaryDirectory() as folder, apex.open_gguf(apex.demo_model()) as source:
        files = []
        for floor in floors:
            prior = replace(DEFAULT_PRIOR, floor=floor)
            plan = apex.make_plan(source, **base, imatrix=imatrix, prior=prior)
            files.append(Path(folder) / f"{floor:g}.gguf")
            apex.quantize(source, plan, files[-1], imatrix=imatrix, n_threads=threads)
        return {name: divergences(files, text, threads) for name, text in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--floors", default="0,1e-6,1e-4,1e-3,1e-2,1e-1")
    parser.add_argument("--types", default="mini,Q3_K_M,IQ4_XS")
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--bytes", type=int, default=24_000, help="of each evaluation text")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    texts = {path.stem: text_end(path, options.bytes) for path in options.evaluation}
    floors = [float(floor) for floor in options.floors.split(",")]
    with apex.load_model(apex.demo_model(), n_threads=options.threads) as model:
        chunks = calibration_chunks(model, options.calibration, options.chunks)
        whole = apex.collect_imatrix(model, chunks)
    quiet = {name: silenced(entry) for name, entry in whole.entries.items()}
    arms = {"as it is": whole, "silenced": replace(whole, entries=MappingProxyType(quiet))}
    rows: list[Row] = []
    print(f"{'text':12} {'arm':9} {'recipe':10}    floor KLD (nats)  99 %   change from floor 0")
    for recipe in options.types.split(","):
        for arm, imatrix in arms.items():
            for text, found in measure(imatrix, recipe, floors, texts, options.threads).items():
                new = [Row(text, arm, recipe, *pair) for pair in zip(floors, found, strict=True)]
                print("\n".join(str(row) for row in new), flush=True)
                rows += new
    print(json.dumps({"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
