"""Measurements as they are kept: self-contained JSON lines, and the results file of evaluations."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from apex_native._native import core
from apex_native.evaluation.speed.kernels import KernelSpeed
from apex_native.evaluation.speed.subject import SpeedSubject
from apex_native.evaluation.speed.tokens import SpeedResult
from apex_native.machine import cpu_features, cpu_name, gpu_names, usable_threads
from apex_native.results import Build, Candidate, Results, SpeedTest

__all__ = ["SCHEMA_VERSION", "kernel_record", "speed_record", "speed_results"]

SCHEMA_VERSION = 1
"""Changes when a key of a JSON line changes its place or its meaning."""


def speed_record(
    subject: SpeedSubject, load: Mapping[str, Any], result: SpeedResult
) -> dict[str, Any]:
    """One JSON line of `bench`: where, what, how, and every sample in tokens per second.

    load: the settings that the model was loaded with, as `load_model` takes them.
    """
    settings = asdict(result.settings)
    for key in ("type_k", "type_v"):
        settings[key] = settings[key].name.lower()
    return {
        **_head("speed"),
        "model": asdict(subject),
        "load": dict(load),
        "test": result.settings.test,
        "settings": settings,
        "samples_ns": list(result.samples_ns),
        "samples": list(result.samples),
        "median": result.median,
        "spread": result.spread,
    }


def kernel_record(row: KernelSpeed) -> dict[str, Any]:
    """One JSON line of `bench kernels`: every sample in weights per second."""
    return {
        **_head("kernels"),
        "device": row.device,
        "kernel_isa": core().kernel_isa(),
        "operation": row.operation,
        "type": row.type.name,
        "bpw": row.type.bpw,
        "n_threads": row.n_threads,
        "n_weights": row.n_weights,
        "bytes_per_weight": row.bytes_per_weight,
        "relative_error": row.relative_error,
        "samples": list(row.samples),
        "median": row.median,
        "spread": row.spread,
        "gb_per_s": row.gb_per_s,
    }


def speed_results(measured: Sequence[tuple[SpeedSubject, Sequence[SpeedResult]]]) -> Results:
    """The results file of these models: candidates with `speed`, no text and no reference.

    Models whose files have the same name are named by their paths. `merge_results` joins it with
    an evaluation of the same files. Raises ResultsError where one file was given twice.
    """
    build = core().build_info()
    names = Counter(subject.name for subject, _ in measured)
    device = device_name()
    return Results(
        build=Build(
            build["version"], build["llama_cpp_commit"], build.get("compiler") or "unknown"
        ),
        created=_now(),
        candidates=tuple(
            Candidate(
                name=subject.name if names[subject.name] == 1 else subject.path,
                bytes=subject.bytes,
                bpw=subject.bpw,
                path=subject.path,
                fingerprint=subject.fingerprint,
                speed=tuple(_speed_test(result, device) for result in results),
            )
            for subject, results in measured
        ),
    )


def device_name() -> str:
    """What computes, as people name it; GPUs count where this build can use them."""
    gpus = Counter(gpu_names()) if core().build_info()["cuda"] else Counter[str]()
    names = [name if count == 1 else f"{count} x {name}" for name, count in gpus.items()]
    return "; ".join([*names, f"CPU: {cpu_name()}"])


def _speed_test(result: SpeedResult, device: str) -> SpeedTest:
    settings = result.settings
    return SpeedTest(
        test=settings.test,
        n_threads=settings.n_threads,
        type_k=settings.type_k.name.lower(),
        type_v=settings.type_v.name.lower(),
        median=result.median,
        samples=result.samples,
        n_batch=settings.n_batch,
        n_ubatch=settings.n_ubatch,
        device=device,
    )


def _head(benchmark: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": benchmark,
        "created": _now(),
        "build": core().build_info(),
        "machine": {
            "cpu": cpu_name(),
            "cpu_features": list(cpu_features()),
            "gpus": list(gpu_names()),
            "usable_threads": usable_threads(),
        },
    }


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
