"""How soon: a thousand tensors classified, and work that ends after somebody asked it to stop.

    python bench/latency.py [--repeat N] [--threads N]

Work is stopped by its `cancel` event at the first sign of progress, on the demo model; the time is
that from setting the event to the exception. Tests say that it stops, this says how soon.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apex_native as apex
from apex_native.demo_text import demo_text

N_LAYERS = 72
LONG_TEXT = 400_000
"""Characters: minutes of work, so that no call ends before it is stopped."""


def classification_ms() -> float:
    """The demo model's tensors with the layers of a large model: more than a thousand."""
    with apex.open_gguf(apex.demo_model()) as file:
        facts = file.facts
    outside = [tensor for tensor in facts.tensors if not tensor.name.startswith("blk.")]
    layer = [tensor for tensor in facts.tensors if tensor.name.startswith("blk.1.")]
    inside = [
        replace(tensor, name=tensor.name.replace("blk.1.", f"blk.{i}.", 1))
        for i in range(N_LAYERS)
        for tensor in layer
    ]
    count = {f"{facts.architecture}.block_count": N_LAYERS}
    many = replace(facts, metadata={**facts.metadata, **count}, tensors=(*outside, *inside))
    start = time.perf_counter()
    found = apex.classify(many)
    elapsed = time.perf_counter() - start
    assert found.n_layer == N_LAYERS
    return 1000 * elapsed


class Stop:
    """Asks for the end at the first progress, and knows when it asked."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.asked = 0.0

    def __call__(self, _: object) -> None:
        if not self.event.is_set():
            self.asked = time.perf_counter()
            self.event.set()

    def latency_ms(self, work: Callable[[], object]) -> float:
        """From asking to the exception."""
        try:
            work()
        except apex.Cancelled:
            return 1000 * (time.perf_counter() - self.asked)
        raise AssertionError("the work ended before it could be stopped")


def stop_quantizing(folder: Path, threads: int) -> float:
    stop = Stop()
    with apex.open_gguf(apex.demo_model()) as source:
        matrix = apex.load_imatrix(apex.demo_imatrix())
        plan = apex.make_plan(source, ftype="IQ2_XXS", imatrix=matrix)
        return stop.latency_ms(
            lambda: apex.quantize(
                source,
                plan,
                folder / "out.gguf",
                imatrix=matrix,
                n_threads=threads,
                force=True,
                progress=stop,
                cancel=stop.event,
            )
        )


def stop_calibrating(_: Path, threads: int) -> float:
    stop = Stop()
    text = apex.CalibrationText(demo_text(LONG_TEXT, seed=1))
    return stop.latency_ms(
        lambda: apex.calibrate(
            apex.demo_model(),
            text,
            placement=apex.Placement(n_threads=threads),
            progress=stop,
            cancel=stop.event,
        )
    )


def stop_evaluating(_: Path, threads: int) -> float:
    stop = Stop()
    text = apex.Text("text", demo_text(LONG_TEXT, seed=1))
    return stop.latency_ms(
        lambda: apex.evaluate(
            apex.demo_model(),
            [apex.demo_model()],
            text,
            n_threads=threads,
            progress=stop,
            cancel=stop.event,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured: dict[str, Callable[[], float]] = {
            "classify 1000 tensors": classification_ms,
            "stop quantize": lambda: stop_quantizing(folder, arguments.threads),
            "stop calibrate": lambda: stop_calibrating(folder, arguments.threads),
            "stop evaluate": lambda: stop_evaluating(folder, arguments.threads),
        }
        samples = {what: [run() for _ in range(arguments.repeat)] for what, run in measured.items()}
    print(f"{'milliseconds':<24}{'median':>10}{'slowest':>10}")
    for what, values in samples.items():
        print(f"{what:<24}{statistics.median(values):>10.1f}{max(values):>10.1f}")
    print(json.dumps({"benchmark": "latency", "milliseconds": samples}))


if __name__ == "__main__":
    main()
