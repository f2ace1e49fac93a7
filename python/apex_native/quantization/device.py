"""Which GPUs a run uses."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from apex_native._native import core
from apex_native.errors import ApexError, DeviceError
from apex_native.machine import usable_threads

__all__ = ["DeviceUse", "Gpu", "list_gpus", "made_where_there_is_room", "start_driver"]

_logger = logging.getLogger("apex_native.quantization")

Made = TypeVar("Made")
Device = TypeVar("Device")


_SLOTS_PER_GPU = 4


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine; number as in cuda:0, memory in bytes."""

    number: int
    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs; DeviceError where there is none, no driver, or the build has no CUDA."""
    return tuple(Gpu(**device) for device in core.cuda_devices())


def start_driver(device: str) -> None:
    """Begin to start CUDA, where ``device`` will need it, beside whatever comes first.

    It takes a third of a second, once per process. What goes wrong shows up when it is used.
    """
    # The interpreter waits for it. A daemon that comes back from native code while the interpreter
    # ends is unwound through C++ frames (Python up to 3.12), and that aborts the process.

    def start() -> None:
        with contextlib.suppress(ApexError):
            core.cuda_devices()

    if device != "cpu":
        threading.Thread(target=start, name="apex-cuda-start").start()


def made_where_there_is_room(
    make: Callable[[Device], Made], device: Device, cpu: Device
) -> tuple[Made, Device]:
    """What make gives on a device, or on the CPU where that GPU is full, and where it was made.

    For candidates, which are quantized beside the models that fill a GPU; the bytes are the same.
    Raises what make raises on the CPU.
    """
    try:
        return make(device), device
    except DeviceError as error:
        if device == cpu:
            raise
        _logger.warning("quantizing on the CPU: %s", error)
        return make(cpu), cpu


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Numbers of the GPUs (none: CPU only) and the share of their rows that the CPU does again."""

    numbers: list[int]
    verify_rate: float

    def n_threads(self) -> int:
        """Threads to use unless told otherwise: all cores, and enough to keep every GPU busy.

        A thread carries one unit at a time and mostly waits for its GPU; four of them read, copy,
        quantize and write at once.
        """
        return max(usable_threads(), _SLOTS_PER_GPU * len(self.numbers))

    @classmethod
    def parse(cls, device: str, verify_rate: float = 0.0) -> Self:
        """From "cpu", "cuda", "cuda:N" or "cuda:all".

        Raises DeviceError where the text is none of these or there is no such GPU, ValueError where
        the rate is not in [0, 1].
        """
        if not 0.0 <= verify_rate <= 1.0:
            raise ValueError(f"verify_gpu is {verify_rate}, expected a share from 0 to 1")
        if device == "cpu":
            return cls([], verify_rate)
        match = re.fullmatch(r"cuda(?::(\d+|all))?", device)
        if match is None:
            raise DeviceError(
                f"device is {device!r}, expected cpu, cuda, cuda:N or cuda:all; choose one of these"
            )
        found = [gpu.number for gpu in list_gpus()]
        if match[1] == "all":
            return cls(found, verify_rate)
        number = int(match[1] or found[0])
        if number not in found:
            raise DeviceError(
                f"there is no {device}: this machine has {_text(found)}; choose one of these"
            )
        return cls([number], verify_rate)


def _text(numbers: list[int]) -> str:
    return ", ".join(f"cuda:{number}" for number in numbers)
