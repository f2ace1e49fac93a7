"""What `plan --fit` says a model takes, beside what llama.cpp allocates when it really runs.

    python bench/fit_vs_allocations.py [--models llama,qwen3moe,...] [--ctx N] [--folder DIR]
        [--wide-layers N] [--wide-experts N]

Small models of the architectures of tests/memory_models.py and one of Qwen3.5-35B-A3B's widths
(``wide``) are loaded with their weights, on the GPU where there is one and the build can use it,
and compute a batch and a token; each in a process of its own. Then models with experts again, with
as many layers' experts on the host as --fit asks for in a room that is too small for all of them.

predicted: weights + caches + recurrent states + compute buffers; planned: the same for a GPU, asked
on this machine without its GPU, as who plans at another desk does. allocated: the same by
llama.cpp's memory breakdown of the running context. beyond: what else the GPU has less free, that
is pools, handles and loaded kernels; CUDA: its context, MiB. Exits with 1 where the two differ by
more than 3 %, or where what --fit says will fit did not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apex_native as apex
from apex_native._native import core
from apex_native.gpu_layers import has_gpu
from apex_native.memory import ContextSettings, Need, Room, context_memory, fit_file, place_weights
from apex_native.types import GgmlType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from memory_models import MODELS
from plan_tables import write_gguf
from wide_model import WideModel, write_wide_model

WIDE = "wide"
ALLOWED = 0.03
MIB = 1 << 20


def gpu_free_mib() -> int:
    """Of the first GPU, asked without a CUDA context of our own."""
    query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


def kept(need: Need) -> int:
    """Without what is no buffer of llama.cpp's."""
    return need.total - need.cuda_context


def run_one(path: Path, ctx: int, *, some_on_host: bool, free_before: int) -> dict[str, Any]:
    """Predict, load, compute, compare: in a process that has done nothing else."""
    on_gpu = has_gpu()
    layers = -1 if on_gpu else 0
    cuda_context = free_before - gpu_free_mib() if on_gpu else 0
    settings = ContextSettings(ctx, GgmlType.Q8_0, GgmlType.Q8_0)
    with apex.open_gguf(path) as source:
        context = context_memory(source, settings)
        room = Room(1 << 60, on_gpu=on_gpu)
        fit = fit_file(source.tensors, context, room)
        if some_on_host:
            experts = sum(nbytes for _, nbytes in place_weights(source.tensors).experts)
            room = Room(fit.need.total - experts // 2)
            fit = fit_file(source.tensors, context, room)
    asked = {
        "n_ctx": ctx, "n_batch": settings.ubatch, "n_seq_max": 1, "n_outputs_max": 1,
        "type_k": settings.type_k.id, "type_v": settings.type_v.id, "swa_full": False,
    }  # fmt: skip
    planned = core.Model(str(path), no_alloc=True, n_gpu_layers=layers)
    free = planned.memory_use(**asked)[0][4]
    del planned
    moved = fit.n_cpu_moe or 0
    model = core.Model(str(path), n_gpu_layers=layers, use_mmap=False, n_cpu_moe=moved)
    found = model.memory_use(**asked, n_tokens=settings.ubatch + 1)
    where = found[0] if on_gpu else found[-1]
    allocated = sum(where[1:4])
    return {
        "n_cpu_moe": fit.n_cpu_moe,
        "predicted": kept(fit.need),
        "parts": {n: getattr(fit.need, n) for n in ("weights", "cache", "buffers", "staging")},
        "allocated": allocated,
        "allocated_parts": dict(zip(("weights", "cache", "compute"), where[1:4], strict=True)),
        "host_predicted": fit.need.host,
        "host_allocated": sum(found[-1][1:4]) if on_gpu else None,
        "beyond": free - where[4] - allocated if on_gpu else None,
        "cuda_context_mib": cuda_context if on_gpu else None,
        "room": room.nbytes,
        "counted_context": fit.need.cuda_context,
    }


def plan_one(path: Path, ctx: int) -> dict[str, Any]:
    """For a GPU that need not be here."""
    with apex.open_gguf(path) as source:
        context = context_memory(source, ContextSettings(ctx, GgmlType.Q8_0, GgmlType.Q8_0))
        return {"planned": kept(fit_file(source.tensors, context, Room(1 << 60)).need)}


def asked(path: Path, ctx: int, *options: str, **env: str) -> dict[str, Any]:
    """What a fresh process answers."""
    command = [sys.executable, __file__, "--one", str(path), "--ctx", str(ctx), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(path: Path, ctx: int, *, some_on_host: bool) -> dict[str, Any]:
    """Both ways of planning, and what was allocated."""
    options = ["--some-on-host"] if some_on_host else []
    planned: dict[str, Any] = {"planned": None}
    if has_gpu_driver():
        options += ["--free-before", str(gpu_free_mib())]
        if not some_on_host:
            planned = asked(path, ctx, "--plan-only", CUDA_VISIBLE_DEVICES="")
    return {**planned, **asked(path, ctx, *options)}


def has_gpu_driver() -> bool:
    return subprocess.run(["which", "nvidia-smi"], capture_output=True, check=False).returncode == 0


def write(name: str, folder: Path, options: argparse.Namespace) -> Path:
    path = folder / f"{name}.gguf"
    if name == WIDE:
        model = WideModel(options.wide_layers, n_experts=options.wide_experts)
        return write_wide_model(path, model, tokenizer=apex.demo_model())
    write_gguf(MODELS[name]().table, path)
    return path


def difference(row: dict[str, Any]) -> float:
    return float(row["predicted"] / row["allocated"] - 1)


def line(name: str, row: dict[str, Any]) -> str:
    def mib(value: int | None) -> str:
        return "" if value is None else f"{value / MIB:.1f}"

    parts = row["allocated_parts"]
    shown = [name, row["n_cpu_moe"] or ""]
    shown += [mib(parts[part]) for part in ("weights", "cache", "compute")]
    shown += [mib(row["predicted"]), mib(row["allocated"]), f"{100 * difference(row):+.2f} %"]
    shown += [mib(row["planned"]), mib(row["beyond"]), row["cuda_context_mib"] or ""]
    return f"| {' | '.join(map(str, shown))} |"


def fits_as_said(row: dict[str, Any]) -> bool:
    """With CUDA's context and what is beyond llama.cpp's buffers it is no more than the room."""
    if row["beyond"] is None:
        return bool(row["allocated"] <= row["room"])
    beside = row["cuda_context_mib"] * MIB + row["beyond"]
    return bool(row["allocated"] + beside <= row["room"])


Rows = dict[str, dict[str, Any]]


def compare(options: argparse.Namespace, folder: Path) -> tuple[Rows, Rows, list[str]]:
    """With everything where the layers are, with some experts on the host, and what failed."""
    whole: Rows = {}
    partial: Rows = {}
    header = (
        "| model | n-cpu-moe | weights | cache | compute | predicted | allocated | difference |"
    )
    print(header + " planned | beyond | CUDA |\n|" + "---|" * 11)
    failed = []
    for name in options.models.split(","):
        path = write(name, folder, options)
        try:
            whole[name] = measured(path, options.ctx, some_on_host=False)
            print(line(name, whole[name]), flush=True)
            has_experts = bool(place_weights(apex.open_gguf(path).tensors).experts)
            if has_experts and whole[name]["beyond"] is not None:
                partial[name] = measured(path, options.ctx, some_on_host=True)
                print(line(name, partial[name]), flush=True)
        except RuntimeError as error:
            failed.append(name)
            print(f"| {name} | {error} |", flush=True)
        path.unlink()
    return whole, partial, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", default=",".join((*MODELS, WIDE)))
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--wide-layers", type=int, default=4)
    parser.add_argument("--wide-experts", type=int, default=256)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--some-on-host", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plan-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--free-before", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None and options.plan_only:
        print(json.dumps(plan_one(options.one, options.ctx)))
        return 0
    if options.one is not None:
        found = run_one(
            options.one, options.ctx, some_on_host=options.some_on_host,
            free_before=options.free_before,
        )  # fmt: skip
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        whole, partial, failed = compare(options, Path(scratch))
    worst = max((abs(difference(row)) for row in whole.values()), default=0.0)
    contexts = [row["cuda_context_mib"] for row in whole.values()]
    ok = not failed and worst <= ALLOWED
    ok = ok and all(fits_as_said(row) for row in (*whole.values(), *partial.values()))
    print(json.dumps({
        "worst": worst, "failed": failed, "cuda_context_mib": contexts,
        "whole": whole, "partial": partial,
    }))  # fmt: skip
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
