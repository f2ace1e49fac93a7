"""What a seed of the search is worth: plans of several seeds on a text none of them saw.

    python bench/search_seeds.py MODEL --imatrix M --held-out wiki.test.raw --budget 11959360 \\
        --seeds 0,1 -f prose.txt -f code.txt [--chunks 40]

A seed decides which chunks are drawn for every part. The first seed is run twice: the same command
gives the same plan (with --store that is no test). Ratios are to the first seed's KLD, paired by
chunk, with 95 % intervals.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import apex_native as apex
from apex_native.allocation import (
    EFFORTS,
    DomainText,
    ProbeStore,
    SearchRequest,
    search_types,
)
from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.allocation.texts import Part
from apex_native.allocation.verdict import kld_ratio
from apex_native.engine import Placement
from apex_native.imatrix import load_imatrix, read_text

CTX = 512


def main() -> None:
    options = parsed()
    imatrix, placement = load_imatrix(options.imatrix), Placement(n_threads=options.threads)
    request = SearchRequest(
        (options.budget,),
        tuple(DomainText(Path(p).name, read_text([Path(p)])) for p in options.text),
        effort=EFFORTS[options.effort],
        placement=placement,
    )
    seeds = [int(part) for part in options.seeds.split(",")]
    with apex.open_gguf(options.model) as source:
        plans = {}
        for label, seed in [*((str(s), s) for s in seeds), (f"{seeds[0]} again", seeds[0])]:
            one = replace(request, seed=seed)
            found = search_types(source, one, imatrix, store=options.store)
            plans[label] = {
                tensor.name: tensor.type
                for tensor in found.budgets[0].plan.tensors
                if tensor.type is not tensor.source_type
            }
        settings = SessionSettings(CTX, placement)
        with ProbeStore(None) as store, ProbeSession(source, imatrix, store, settings) as session:
            part = held_out(options, session)
            measured = dict(zip(plans, session.measure(list(plans.values()), part), strict=True))
    first = str(seeds[0])
    print("| seed | tensors that differ from the first | KLD | ratio [95 %] |")
    print("|---|---|---|---|")
    for label, types in plans.items():
        names = set(types) | set(plans[first])
        n = sum(types.get(name) is not plans[first].get(name) for name in names)
        ratio = kld_ratio(measured[label], measured[first])
        print(
            f"| {label} | {n} of {len(names)} | {measured[label].mean:.5f} "
            f"| {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] |"
        )


def held_out(options: argparse.Namespace, session: ProbeSession) -> Part:
    text = Path(options.held_out).read_bytes()[:300_000].decode("utf-8", "ignore")
    tokens = session.model.tokenize(text, add_special=True, parse_special=False)
    chunks = tokens[: options.chunks * CTX].reshape(options.chunks, CTX)
    return Part(np.ascontiguousarray(chunks, np.int32), (0,) * options.chunks)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("-f", "--text", action="append", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--effort", default="normal", choices=sorted(EFFORTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", help="measurements to go on from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
