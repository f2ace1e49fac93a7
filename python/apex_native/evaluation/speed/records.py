"""Measurements as they are kept: self-contained JSON lines, and the results file of evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from apex_native._native import core
from apex_native.evaluation.record import created_now, results_of
from apex_native.evaluation.speed.kernels import KernelSpeed
from apex_native.evaluation.speed.models import ModelSpeed
from apex_native.evaluation.speed.tokens import SpeedResult
from apex_native.machine import cpu_features, cpu_name, gpu_names, usable_threads
from apex_native.results import Results, SpeedTest

__all__ = ["SCHEMA_VERSION", "kernel_record", "speed_record", "speed_results", "speed_rows"]

SCHEMA_VERSION = 1
"""Changes when a key of a JSON line changes its place or its meaning."""


def speed_record(speed: ModelSpeed, result: SpeedResult) -> dict[str, Any]:
    """One JSON line of `bench`: where, what, how, and every sample in tokens per second."""
    source = speed.model.source
    load = asdict(speed.model.placement)
    del load["n_threads"]  # the test's count
    settings = asdict(result.settings)
    for key in ("type_k", "type_v"):
        settings[key] = settings[key].name.lower()
    return {
        **_head("speed"),
        "model": {
            "name": speed.name,
            "path": None if source.path is None else str(source.path),
            "bytes": source.nbytes,
            "bpw": source.bpw,
            "n_parameters": speed.n_parameters,
            "description": speed.description,
            "fingerprint": source.fingerprint,
        },
        "load": load,
        "test": result.settings.test,
        "settings": settings,
        "samples_ns": list(result.samples_ns),
        "samples": list(result.samples),
        "median": result.median,
        "spread": result.spread,
        "is_finite": result.is_finite,
    }


def kernel_record(row: KernelSpeed) -> dict[str, Any]:
    """One JSON line of `bench kernels`: every sample in weights per second."""
    return {
        **_head("kernels"),
        "device": row.device,
        "kernel_isa": core.kernel_isa(),
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


def speed_results(measured: Sequence[ModelSpeed]) -> Results:
    """The results file of these models: candidates with `speed`, no text and no reference.

    `merge_results` joins it with an evaluation of the same files.
    """
    models = {speed.name: speed.model for speed in measured}
    fields = {speed.name: {"speed": speed_rows(speed.results)} for speed in measured}
    return results_of(None, models, fields)


def speed_rows(results: Sequence[SpeedResult]) -> tuple[SpeedTest, ...]:
    """A model's tests as results keep them."""
    device = device_name()
    return tuple(_speed_test(result, device) for result in results)


def device_name() -> str:
    """What computes, as people name it; GPUs count where this build can use them."""
    gpus = Counter(gpu_names()) if core.build_info()["cuda"] else Counter[str]()
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
        flash_attn=settings.flash_attn or "auto",
        device=device,
    )


def _head(benchmark: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": benchmark,
        "created": created_now(),
        "build": core.build_info(),
        "machine": {
            "cpu": cpu_name(),
            "cpu_features": list(cpu_features()),
            "gpus": list(gpu_names()),
            "usable_threads": usable_threads(),
        },
    }
