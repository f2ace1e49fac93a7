"""A Ray cluster to work on: found, or started on this machine, leaving nothing behind."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from apex_native.engine import Placement
from apex_native.errors import DataError
from apex_native.machine import free_memory, usable_threads

__all__ = ["WorkerPlan", "connected", "import_ray", "plan_workers"]

OBJECTS_BYTES = 512 << 20
"""Room for what is in flight on one machine: definitions and scores, a few megabytes each."""

OBJECTS_SHARE = 16
"""One part in so many of the free memory at most for that, where a matrix' parts are in flight."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}
"""No statistics to anybody, no word about CUDA_VISIBLE_DEVICES of workers without a GPU, and
workers started here have this process' priority (Ray's default, 15, starves them beside others)."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How many workers, and what each has; memory in bytes, 0 where nothing was measured."""

    n_workers: int
    n_threads: int
    n_gpus: int
    memory: int = 0


def import_ray() -> Any:
    """The module; DataError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise DataError(
            "workers need Ray, which is not installed; install it with "
            "`pip install 'apex-native[sweep]'`, or sweep in one process"
        ) from error


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster; what was started here ends with the block.

    A connection that the caller's program has already is used and left alone. Raises DataError
    where there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    os.environ.update({key: os.environ.get(key, value) for key, value in _SETTINGS.items()})
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, address)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own in place
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"no Ray cluster at '{address}': {reason:.200}; start its head "
                "node first, or leave the address out to start workers here"
            ) from error
        return
    if "RAY_AUTH_MODE" not in os.environ:
        # Ray would write a token into the home folder; this cluster lives as long as this process.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    room = max(OBJECTS_BYTES, (free_memory() or 0) // OBJECTS_SHARE)
    ray.init(
        address="local",
        num_cpus=usable_threads(),
        object_store_memory=room,
        include_dashboard=False,
        **quiet,
    )


def plan_workers(
    ray: Any, placement: Placement, n_workers: int | None, measured_bytes: int
) -> WorkerPlan:
    """A worker a GPU, or one a machine with all of its threads, unless told otherwise.

    Two pools of native threads on the same processors slow each other tenfold: workers of a machine
    share its threads. measured_bytes: memory that workers of earlier runs needed. Raises DataError
    where the cluster has no GPU for a placement that asks for them.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    if placement.on_gpu:
        nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not nodes:
        what = "GPU" if placement.on_gpu else "processor"
        raise DataError(f"no machine of the Ray cluster has a {what} to offer; add one")
    n_gpus = int(sum(node.get("GPU", 0) for node in nodes)) if placement.on_gpu else 0
    total = n_workers or n_gpus or len(nodes)
    if placement.on_gpu and total > n_gpus:
        raise DataError(f"{total} workers need a GPU each, the cluster has {n_gpus}")
    per_node = -(-total // len(nodes))
    if placement.on_gpu:
        per_node = max(per_node, max(int(node["GPU"]) for node in nodes))
    share = max(1, int(min(node["CPU"] for node in nodes)) // per_node)
    room = int(max(node.get("memory", 0) for node in nodes))
    n_threads = min(placement.n_threads or share, share)
    return WorkerPlan(total, n_threads, int(placement.on_gpu), min(measured_bytes, room))
