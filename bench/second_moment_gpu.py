"""What `--hessian` costs on a GPU at the widths of Qwen3.5-35B-A3B, step by step, for one layer.

    python bench/second_moment_gpu.py OUT_FOLDER [--folder /dev/shm/moments] [--tokens 262144]
        [--threads N] [--types Q3_K Q4_K] [--experts 256] [--seconds 200]
        [--only write collect ... tier] [--tier i-compact] [--tier-layers 8] [--tier-tokens 1000448]

The model is wide_model.py's with four layers of random weights, of which the first is measured.
Collection: a pass with an importance matrix only (a quarter of all four layers'), two with second
moments too that end behind the first, of all tokens and of a quarter, which tell what a layer costs
and what a token, and what comes to the host. Quantization: one expert's rows on
the GPU and on the CPU, whose bytes and error sums must agree; the tensors of the layer's experts,
whole, and with parts of the work left out, to tell what takes how long. What 40 layers would take
is the layer's time times 40, and said to be so. tier, only where it is asked for: `apex-native
quantize --calibration --hessian` of a model of --tier-layers, and the same without second moments,
as whole processes. Every result is printed and appended to
OUT_FOLDER/second_moment_gpu.jsonl at once; steps that would begin after --seconds are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import GPU_UBATCH, Model, load_model
from apex_native.gguf import GgufFile
from apex_native.imatrix import plan_collection
from apex_native.imatrix.collection import Collection
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.hessian import InputMoment
from apex_native.machine import cpu_name
from apex_native.quantization import list_gpus
from apex_native.types import GgmlType
from wide_model import WideModel, write_wide_model

N_LAYERS = 40
N_WRITTEN = 4
"""The first with full attention is the fourth; llama.cpp wants one."""

TOKENS = 1_000_000
GATE, UP, DOWN = (f"blk.0.ffn_{name}_exps.weight" for name in ("gate", "up", "down"))


STEPS = ("write", "compare_collection", "collect", "compare", "whole", "plain", "parts", "threads")


class Bench:
    """The model, its layer's moments, and what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = time.perf_counter()
        self.failed = False
        self.moments: dict[str, InputMoment] = {}
        self.input_of: dict[str, str] = {}
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
        if time.perf_counter() - self.began > self.args.seconds:
            return self.add(name, left_out="no time")
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
            less, more = GPU_UBATCH, 4 * GPU_UBATCH
            plan = replace(plan, ubatch=less, batch=less)
            self.collect_twice(model, plan)
            self.collect_twice(model, replace(plan, moments=True, weights=weights, ubatch=more,
                                              batch=max(plan.batch, more)))  # fmt: skip
            self.collect_twice(model, replace(plan, moments=True, weights=weights))

    def collect_twice(self, model: Model, plan: CollectionPlan) -> None:
        """A quarter of the tokens, then all."""
        self.collect_once(model, replace(plan, tokens=plan.tokens[: plan.batch]))  # warm-up
        quarter = plan.tokens[: len(plan.tokens) // 4 // plan.batch * plan.batch]
        few = self.collect_once(model, replace(plan, tokens=quarter))
        seconds = self.collect_once(model, plan, keep=True)
        a_token = (seconds - few) / (len(plan.tokens) - len(quarter))
        fixed = seconds - a_token * len(plan.tokens)
        self.add(
            "a layer with moments" if plan.moments else "importance matrix of a layer",
            tokens=len(plan.tokens), at_once=plan.ubatch, seconds=seconds, of_which_once=fixed,
            tokens_per_s=1 / a_token,
            layers_40_of_1M_tokens_s=N_LAYERS * (fixed + a_token * TOKENS),
        )  # fmt: skip

    def collect_once(self, model: Model, plan: CollectionPlan, *, keep: bool = False) -> float:
        """Seconds of a layer; an importance matrix sees all of them."""
        with Collection(model, plan, plan.settings(model)) as run:
            begun = time.perf_counter()
            run.compute(None, None)
            seconds = (time.perf_counter() - begun) / (1 if plan.moments else N_WRITTEN)
            if not (keep and plan.moments):
                return seconds
            begun = time.perf_counter()
            self.moments, self.input_of = run.take_moments()
            self.add("moments to the host", seconds=time.perf_counter() - begun,
                     gib=sum(m.total.nbytes + m.part.nbytes
                             for m in self.moments.values()) / 2**30)  # fmt: skip
            counts = self.moments[self.input_of[UP]].counts
            self.add("tokens of an expert", least=int(counts.min()), most=int(counts.max()))
            return seconds

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

    # --- quantization -----------------------------------------------------------------------------

    @contextmanager
    def converter(
        self, source: GgufFile, name: str, type: GgmlType, moment: InputMoment, *, on_gpu: bool,
        places: int, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        devices = None
        if on_gpu:
            devices = core.FeedbackDevices([0], n_places=places, n_per_row=moment.n_per_row)
        begun = time.perf_counter()
        made = core.feedback(
            source.stored_tensor(name), type.id, total=moment.total, part=moment.part,
            counts=moment.counts, part_counts=moment.part_counts, devices=devices,
            n_threads=self.args.threads, options=core.FeedbackOptions(**options),
        )  # fmt: skip
        self.layer_mean_s = time.perf_counter() - begun
        yield made

    def quantize(
        self, source: GgufFile, name: str, type_name: str, moment: InputMoment, *,
        on_gpu: bool = True, threads: int | None = None, **options: Any,
    ) -> tuple[float, bytes, dict[str, Any]]:  # fmt: skip
        type = GgmlType.parse(type_name)
        threads = threads or self.args.threads
        output = self.args.folder / "out.bin"
        with (
            self.converter(
                source, name, type, moment, on_gpu=on_gpu, places=threads, **options
            ) as made,
            output.open("w+b") as file,
        ):
            task = core.QuantizeTask(
                source.stored_tensor(name), type.id, output_fd=file.fileno(), output_offset=0,
                converter=made,
            )  # fmt: skip
            begun = time.perf_counter()
            job = core.QuantizeJob([task], n_threads=threads, max_memory=64 << 30)
            try:
                while not job.finished:
                    job.wait(1000)
                seconds = time.perf_counter() - begun
                errors: dict[str, Any] = job.output_errors(0)
            finally:
                job.close()
            file.seek(0)
            return seconds, file.read(1 << 24), errors

    def plain(self) -> None:
        """The same tensor without second moments, on the GPU."""
        with GgufFile(self.path) as source, (self.args.folder / "out.bin").open("w+b") as file:
            type = GgmlType.parse("Q4_K")
            task = core.QuantizeTask(source.stored_tensor(UP), type.id, output_fd=file.fileno(),
                                     output_offset=0)  # fmt: skip
            for _ in range(2):
                begun = time.perf_counter()
                job = core.QuantizeJob([task], n_threads=self.args.threads, max_memory=64 << 30,
                                       devices=[0])  # fmt: skip
                while not job.finished:
                    job.wait(1000)
                job.close()
                seconds = time.perf_counter() - begun
            self.add("plain quantization of gate or up", seconds=seconds)

    def moment_of(self, name: str) -> InputMoment:
        return self.moments[self.input_of[name]]

    def parts(self) -> None:
        """Eight experts' worth of time would mislead: whole tensors, with parts left out."""
        never = 1 << 40
        with GgufFile(self.path) as source:
            for what, options in (
                (
                    "warm-up and bases, no passes, no choice",
                    {"max_passes": 0, "scale_radius": 0, "min_held_out": never},
                ),
                (
                    "bases and feeding, no passes, no choice",
                    {"max_passes": 0, "min_held_out": never},
                ),
                ("one pass, no choice", {"max_passes": 1, "min_held_out": never}),
                ("all passes, no choice", {"min_held_out": never}),
            ):
                seconds, _, _ = self.quantize(source, UP, "Q4_K", self.moment_of(UP), **options)
                self.add(f"up in Q4_K: {what}", seconds=seconds, layer_mean_s=self.layer_mean_s)

    def whole(self) -> None:
        """The experts of a layer; gate and up choose together, and by themselves."""
        for type in self.args.types:
            for together in (True, False):
                seconds, errors = self.quantize_layer(GgmlType.parse(type), together=together)
                share = self.args.experts / 256
                self.add(
                    f"experts of a layer in {type}", together=together, seconds=seconds,
                    layers_40_s=seconds / share * N_LAYERS,
                    of_ggml=[round(found["error"] / found["ggml_error"], 6) for found in errors],
                    kept=[found["n_kept"] for found in errors],
                )  # fmt: skip

    def quantize_layer(
        self, type: GgmlType, *, together: bool = True, threads: int | None = None
    ) -> tuple[float, list[Any]]:
        threads = threads or self.args.threads
        begun = time.perf_counter()
        with GgufFile(self.path) as source, (self.args.folder / "out.bin").open("w+b") as output:
            devices = core.FeedbackDevices([0], n_places=threads, n_per_row=2048)
            made: dict[str, Any] = {}
            tasks: list[Any] = []
            for name in (GATE, UP, DOWN):
                moment = self.moment_of(name)
                first = self.input_of[name]
                made[name] = core.feedback(
                    source.stored_tensor(name), type.id, total=moment.total, part=moment.part,
                    counts=moment.counts, part_counts=moment.part_counts, devices=devices,
                    n_threads=threads, beside=made.get(first) if together else None,
                )  # fmt: skip
                made.setdefault(first, made[name])
                tasks.append(
                    core.QuantizeTask(
                        source.stored_tensor(name), type.id, output_fd=output.fileno(),
                        output_offset=len(tasks) << 30, converter=made[name],
                    )
                )  # fmt: skip
            job = core.QuantizeJob(tasks, n_threads=threads, max_memory=64 << 30)
            try:
                while not job.finished:
                    job.wait(1000)
                seconds = time.perf_counter() - begun
                return seconds, [job.output_errors(i) for i in range(len(tasks))]
            finally:
                job.close()

    def threads(self) -> None:
        for type in self.args.types:
            for threads in (4, *(n * self.args.threads for n in (1, 2, 3))):
                seconds, _ = self.quantize_layer(GgmlType.parse(type), threads=threads)
                self.add(f"experts of a layer in {type}", threads=threads, seconds=seconds)

    def tier(self) -> None:
        """What a publisher calls, on a model of fewer layers."""
        n_layers, n_tokens = self.args.tier_layers, self.args.tier_tokens
        model = self.args.folder / f"wide-{n_layers}.gguf"
        if not model.exists():
            write_wide_model(model, WideModel(n_layers=n_layers), tokenizer=Path(apex.demo_model()))
        text = self.args.folder / "calibration.txt"
        text.write_text(demo_text(8 * n_tokens, seed=3), encoding="utf-8")
        for what, more in (("without second moments", ()), ("with", ("--hessian",))):
            command = [sys.executable, "-m", "apex_native", "quantize", str(model), "--tier",
                       self.args.tier, "--calibration", str(text), "--calibration-chunks",
                       str(n_tokens // 512), *more, "--gpu-layers", "-1", "--device", "cuda",
                       "--threads", str(self.args.threads), "--force",
                       "-o", str(self.args.folder / "tier.gguf")]  # fmt: skip
            begun = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - begun
            (self.args.out / f"tier{'_hessian' if more else ''}.txt").write_text(
                done.stdout + done.stderr, encoding="utf-8"
            )
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            self.add(f"{self.args.tier}, {what}", layers=n_layers, tokens=n_tokens, seconds=seconds)

    def compare(self) -> None:
        """One expert's first rows, on the GPU and on the CPU."""
        from gguf import GGUFWriter

        for name, type in ((DOWN, "Q3_K"), (UP, "Q4_K")):
            whole = self.moment_of(name)
            n = whole.n_per_row
            moment = InputMoment(n, whole.total[:1], whole.part[:1], whole.counts[:1],
                                 whole.part_counts[:1])  # fmt: skip
            path = self.args.folder / "expert.gguf"
            rows = np.random.default_rng(1).normal(0, 0.02, (1, 48, n)).astype(np.float32)
            writer = GGUFWriter(path, "qwen35moe")
            writer.add_tensor(name, rows)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            with GgufFile(path) as source:
                found = [self.quantize(source, name, type, moment, on_gpu=on_gpu, threads=1)
                         for on_gpu in (True, False)]  # fmt: skip
            same = found[0][1] == found[1][1] and found[0][2] == found[1][2]
            self.failed |= not same
            self.add("48 rows of an expert", name=name, type=type, gpu_s=found[0][0],
                     cpu_s=found[1][0], same_bytes_and_errors=same)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/moments"))
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 16))
    parser.add_argument("--types", nargs="+", default=["Q3_K", "Q4_K"])
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--only", nargs="+", default=STEPS)
    parser.add_argument("--tier", default="i-compact")
    parser.add_argument("--tier-layers", type=int, default=8)
    parser.add_argument("--tier-tokens", type=int, default=1_000_448)
    bench = Bench(parser.parse_args())
    gpus = ", ".join(gpu.name for gpu in list_gpus())
    bench.add("machine", gpu=gpus, cpu=cpu_name(), threads=bench.args.threads)
    for name in bench.args.only:
        bench.step(name, getattr(bench, name))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
