"""What collecting second moments costs on a GPU at the widths of Qwen3.5-35B-A3B, for one layer.

    python bench/second_moment_gpu.py OUT_FOLDER [--folder /dev/shm/moments] [--tokens 65536]
        [--threads N] [--experts 256]

The model is wide_model.py's with four layers of random weights, of which the first is measured: a
pass with an importance matrix only (a quarter of all four layers'), one with second moments too
that ends behind the first, what comes to the host. Before that a small collection on the GPU and on
the host, whose bits must agree. What 40 layers and a million tokens would take is scaled up from
that. Every result is printed and appended to OUT_FOLDER/second_moment_gpu.jsonl at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import load_model
from apex_native.imatrix import plan_collection
from apex_native.imatrix.collection import Collection
from apex_native.machine import cpu_name
from apex_native.quantization import list_gpus
from wide_model import WideModel, write_wide_model

N_LAYERS = 40
N_WRITTEN = 4
"""The first with full attention is the fourth; llama.cpp wants one."""

TOKENS = 1_000_000
GATE, UP, DOWN = (f"blk.0.ffn_{name}_exps.weight" for name in ("gate", "up", "down"))


STEPS = ("write", "compare_collection", "collect")


class Bench:
    """The model, its layer's moments, and what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = time.perf_counter()
        self.failed = False
        args.out.mkdir(parents=True, exist_ok=True)
        args.folder.mkdir(parents=True, exist_ok=True)
        self.log = args.out / "second_moment_gpu.jsonl"

    def add(self, what: str, **figures: Any) -> None:
        """Print a result and keep it."""
        shown = ", ".join(
            f"{key} {value:,.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in figures.items()
        )
        print(f"{time.perf_counter() - self.began:6.1f} s  {what}: {shown}", flush=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **figures}) + "\n")

    def step(self, name: str, work: Callable[[], None]) -> None:
        """One after the other; a failure does not stop the next."""
        try:
            work()
        except Exception:  # noqa: BLE001  (the next step may do)
            self.failed = True
            traceback.print_exc()
            self.add(name, failed=traceback.format_exc(limit=2))

    # --- collection -------------------------------------------------------------------------------

    def write(self) -> None:
        self.path = self.args.folder / f"wide-{N_WRITTEN}-{self.args.experts}.gguf"
        if not self.path.exists():
            wide = WideModel(n_layers=N_WRITTEN, n_experts=self.args.experts)
            write_wide_model(self.path, wide, tokenizer=Path(apex.demo_model()))
        self.add("model", gib=self.path.stat().st_size / 2**30)

    def collect(self) -> None:
        with load_model(self.path, n_gpu_layers=-1, n_threads=self.args.threads) as model:
            text = demo_text(8 * self.args.tokens, seed=3)
            plan = plan_collection(model, text, max_chunks=self.args.tokens // 512)
            weights = (GATE, UP, DOWN, "blk.0.attn_qkv.weight", "blk.0.attn_gate.weight",
                       "blk.0.ssm_out.weight", "blk.0.ffn_down_shexp.weight")  # fmt: skip
            settings = plan.settings(model)
            for moments in (False, True):
                # The importance matrix sees all layers; the warm-up is not counted.
                chosen = replace(plan, moments=moments, weights=weights if moments else ())
                warm = replace(chosen, tokens=chosen.tokens[: 4 * 512])
                with Collection(model, warm, settings) as run:
                    run.compute(None, None)
                with Collection(model, chosen, settings) as run:
                    begun = time.perf_counter()
                    run.compute(None, None)
                    seconds = (time.perf_counter() - begun) / (1 if moments else N_WRITTEN)
                    tokens = plan.n_chunks * plan.ctx
                    self.add(
                        "a layer with moments" if moments else "importance matrix of a layer",
                        tokens=tokens, seconds=seconds, tokens_per_s=tokens / seconds,
                        layers_40_of_1M_tokens_s=seconds / tokens * TOKENS * N_LAYERS,
                    )  # fmt: skip
                    if not moments:
                        continue
                    begun = time.perf_counter()
                    found, input_of = run.take_moments()
                    self.add("moments to the host", seconds=time.perf_counter() - begun,
                             gib=sum(m.total.nbytes + m.part.nbytes
                                     for m in found.values()) / 2**30)  # fmt: skip
                    counts = found[input_of[UP]].counts
                    self.add("tokens of an expert", least=int(counts.min()), most=int(counts.max()))

    def compare_collection(self) -> None:
        """A small collection on the GPU and on the host: the same bits."""
        with load_model(self.path, n_gpu_layers=-1, n_threads=self.args.threads) as model:
            tokens = np.ascontiguousarray(
                model.tokenize(demo_text(8_000, seed=4), add_special=True, parse_special=False)
            )[: 2 * 512]
            found = []
            for on_host in (False, True):
                run = core.ImatrixRun(
                    model.native, n_ctx=512, n_batch=1024, n_ubatch=1024,
                    n_threads=self.args.threads, scope="everything", moments=True,
                    weights=[DOWN, "blk.0.attn_qkv.weight"],
                )  # fmt: skip
                if on_host:
                    run.sum_on_host_only()
                begun = time.perf_counter()
                run.add_chunks(tokens, True)
                found.append({name: [values.copy() for values in moment]
                              for name, moment in run.moments().items()})  # fmt: skip
                self.add("1,024 tokens", on_host=on_host, seconds=time.perf_counter() - begun)
            same = found[0].keys() == found[1].keys() and all(
                np.array_equal(mine, its)
                for name, arrays in found[0].items()
                for mine, its in zip(arrays, found[1][name], strict=True)
            )
            self.failed |= not same
            self.add("moments on the GPU and on the host", inputs=len(found[0]), same_bits=same)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/moments"))
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 16))
    parser.add_argument("--experts", type=int, default=256)
    bench = Bench(parser.parse_args())
    gpus = ", ".join(gpu.name for gpu in list_gpus())
    bench.add("machine", gpu=gpus, cpu=cpu_name(), threads=bench.args.threads)
    for name in STEPS:
        bench.step(name, getattr(bench, name))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
