"""What this machine is: processor, caches, memory, GPUs. Nothing here raises."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from apex_native.memory_limit import memory_below_limits, text_of

__all__ = [
    "MOST_THREADS",
    "cache_bytes",
    "cpu_features",
    "cpu_name",
    "default_threads",
    "free_memory",
    "gpu_names",
    "own_memory",
    "usable_threads",
]

_CPU_FEATURES = (
    "sse4_2 avx avx2 bmi2 fma f16c avx512f avx512bw avx512vl avx512_vnni amx_tile asimd asimddp sve"
)
"""Instruction sets that ggml or our kernels have code for, as Linux names them."""

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_GPU_FOLDER = Path("/proc/driver/nvidia/gpus")


def cpu_name() -> str:
    """Model name of the processor, as Linux tells it; else what Python knows."""
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """The instruction sets of this processor that matter here; empty where Linux tells none."""
    fields = _cpu_fields()
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(feature for feature in _CPU_FEATURES.split() if feature in flags)


def gpu_names() -> tuple[str, ...]:
    """NVIDIA's names of the GPUs in this machine, whether or not this build can use them."""
    names = []
    for file in sorted(_GPU_FOLDER.glob("*/information")):
        fields = _fields(text_of(file))
        if "Model" in fields:
            names.append(fields["Model"])
    return tuple(names)


def usable_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


MOST_THREADS = 512
"""GGML_MAX_N_THREADS: llama.cpp computes with no more."""


def default_threads() -> int:
    """Threads where nobody said how many: one for each processor that this process may use."""
    return min(usable_threads(), MOST_THREADS)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, within the limits of this process's control groups.

    None where the system does not tell.
    """
    kib = _fields(text_of(Path("/proc/meminfo"))).get("MemAvailable", "").split()
    found = [memory_below_limits(), int(kib[0]) * 1024 if kib else None]
    return min((n_bytes for n_bytes in found if n_bytes is not None), default=None)


def own_memory() -> int:
    """Bytes this process holds now, files it maps left out; 0 where the system does not tell."""
    fields = _fields(text_of(Path("/proc/self/status")))
    kib = [fields.get(key, "").split() for key in ("RssAnon", "RssShmem")]
    return 1024 * sum(int(value[0]) for value in kib if value)


def cache_bytes() -> int | None:
    """Bytes of all last-level caches together; None where the system does not tell.

    Processors made of several dies have a cache on each: threads everywhere can fill them all.
    """
    caches = set(_last_level_caches())
    return sum(size for size, _ in caches) or None


def _last_level_caches() -> Iterator[tuple[int, str]]:
    """Size of each processor's largest-level data cache, and the processors that share it."""
    for cpu in _CPU_FOLDER.glob("cpu[0-9]*"):
        levels = []
        for index in (cpu / "cache").glob("index*"):
            if text_of(index / "type").strip() == "Instruction":
                continue
            level, size = text_of(index / "level").strip(), text_of(index / "size").strip()
            if level.isdecimal() and size.endswith("K") and size[:-1].isdecimal():
                levels.append(
                    (int(level), int(size[:-1]) << 10, text_of(index / "shared_cpu_list"))
                )
        if levels:
            _, size_bytes, shared = max(levels)
            yield size_bytes, shared


def _cpu_fields() -> dict[str, str]:
    return _fields(text_of(Path("/proc/cpuinfo")))


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
