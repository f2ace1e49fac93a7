"""What complete sensitivities cost at the size of a real model: time beyond loading, host memory.

    python bench/search_35b.py MODEL.gguf [--chunks 8] [--gpu-layers -1] [--threads N] [--json OUT]

Every unit (a layer's gate and up, down, shared experts, attention; both ends) alone in two types on
chunks of 512 tokens, as the first step of `apex-native search` measures it. Random weights will do:
only the cost means anything then. An importance matrix is collected first, on a few chunks; it and
the loading are timed apart. host: the peak of memory that no file backs, sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import apex_native as apex
from apex_native.allocation import DomainText, Effort, ProbeStore, SearchRequest, TextSizes
from apex_native.allocation.probing import ANCHORS, probe_units
from apex_native.allocation.session import ProbeSession, SessionSettings
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.texts import Part, split_texts
from apex_native.demo_text import demo_text
from apex_native.engine import Placement
from apex_native.imatrix import Importance
from apex_native.machine import cpu_name, gpu_names

CTX = 512
MATRIX_CHUNKS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    memory = AnonymousMemory()
    placement = Placement(n_gpu_layers=options.gpu_layers, n_threads=options.threads)
    figures = measure(options, placement)
    figures |= {
        "host_gib": memory.peak_gib(),
        "machine": [cpu_name(), *gpu_names()],
        "threads": options.threads,
        "command": " ".join(["python", *sys.argv]),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(options: argparse.Namespace, placement: Placement) -> dict[str, object]:
    begin = time.monotonic()
    with apex.load_model(
        options.model, n_gpu_layers=options.gpu_layers, n_threads=options.threads
    ) as model:
        text = demo_text(CTX * MATRIX_CHUNKS * 4, seed=1)
        tokens = model.tokenize(text, add_special=True, parse_special=False)
        imatrix = apex.collect_imatrix(model, tokens[: CTX * MATRIX_CHUNKS])
    matrix_s = time.monotonic() - begin
    domains = tuple(
        DomainText(f"text {seed}", demo_text(CTX * 4 * (options.chunks + 8), seed=seed))
        for seed in (2, 3)
    )
    request = SearchRequest(
        budgets=(),
        texts=domains,
        effort=Effort(TextSizes(fit=options.chunks, choose=1, verify=1)),
        placement=placement,
    )
    with apex.open_gguf(options.model) as source:
        space = SearchSpace.of(source, Importance(imatrix, source.facts).summary(), request)
        settings = SessionSettings(CTX, placement)
        begin = time.monotonic()
        with ProbeStore(None) as store, ProbeSession(source, imatrix, store, settings) as session:
            loading_s = time.monotonic() - begin
            parts = split_texts(domains, session.model, ctx=CTX, sizes=request.effort.sizes, seed=0)
            begin = time.monotonic()
            probed = probe_units(space, session, parts, progress=Progress())
            seconds = time.monotonic() - begin
            costs = asdict(session.costs)
            checks = check(space, session, parts.fit.first(1))
    return {
        "model_gib": sum(path.stat().st_size for path in [Path(options.model)]) / 2**30,
        "units": len(probed.units),
        "types": [type.name for type in ANCHORS],
        "chunks": options.chunks,
        "matrix_s": matrix_s,
        "loading_s": loading_s,
        "probing_s": seconds,
        **costs,
        **checks,
    }


def check(space: SearchSpace, session: ProbeSession, part: Part) -> dict[str, float]:
    """Beginning at the changed layer against computing everything; nothing exchanged against 0."""
    unit = [unit for unit in space.units if unit.layer is not None][-1]
    types = {name: space.probe_types(ANCHORS)[name][0] for name in unit.tensors}
    values = session.values.of(types)
    session._scorer.run(part.tokens.reshape(-1), [(values, unit.layer or 0), (values, 0), ([], 0)])
    short, whole, same = (scores["kld"] for scores in session._scorer.scores)
    return {
        "replay_max_difference": float(abs(short - whole).max()),
        "replay_kld": float(whole.mean()),
        "nothing_exchanged_max_kld": float(abs(same).max()),
    }


class Progress:
    """A line every tenth."""

    def __init__(self) -> None:
        self.shown, self.begin = 0, time.monotonic()

    def __call__(self, share: float) -> None:
        if int(10 * share) > self.shown:
            self.shown = int(10 * share)
            passed = time.monotonic() - self.begin
            print(f"{10 * self.shown} % after {passed:.0f} s", file=sys.stderr, flush=True)


class AnonymousMemory:
    """Samples this process's memory that no file backs."""

    def __init__(self) -> None:
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self._peak = max(self._peak, int(line.split()[1]) * 1024)
            time.sleep(0.2)

    def peak_gib(self) -> float:
        return self._peak / 2**30


if __name__ == "__main__":
    main()
