"""How much memory there is: a size, or a graphics card by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Room", "gpu_room"]

_GIB = 1 << 30
_IN_NAME = re.compile(r"(?<!\S)(\d+)\s*(?:GB|GiB|G)\b", re.IGNORECASE)

_CARDS_GIB = {
    "rtx 3060": 12,
    "rtx 3070": 8,
    "rtx 3080": 10,
    "rtx 3080 ti": 12,
    "rtx 3090": 24,
    "rtx 3090 ti": 24,
    "rtx 4060": 8,
    "rtx 4070": 12,
    "rtx 4070 super": 12,
    "rtx 4070 ti": 12,
    "rtx 4070 ti super": 16,
    "rtx 4080": 16,
    "rtx 4080 super": 16,
    "rtx 4090": 24,
    "rtx 5060": 8,
    "rtx 5070": 12,
    "rtx 5070 ti": 16,
    "rtx 5080": 16,
    "rtx 5090": 32,
    "rtx a6000": 48,
    "rtx 6000 ada": 48,
    "l4": 24,
    "l40": 48,
    "l40s": 48,
    "t4": 16,
    "v100": 16,
    "a10": 24,
    "a40": 48,
    "a100": 40,
    "h100": 80,
    "h200": 141,
}
"""Memory by NVIDIA's data sheets, for names that do not say it; the smaller where there are two."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of memory for a model, on a GPU or of the host."""

    nbytes: int
    on_gpu: bool = True
    name: str = ""


def gpu_room(name: str) -> Room:
    """The memory of a card: "RTX 4060 Ti 16GB" says it, "RTX 3090" is known.

    Makers count in GiB. Raises ValueError for a name that says no size and is not known.
    """
    found = _IN_NAME.search(name)
    if found is not None:
        return Room(int(found.group(1)) * _GIB, name=name)
    key = " ".join(re.sub(r"nvidia|geforce|tesla", "", name.lower()).split())
    if key not in _CARDS_GIB:
        raise ValueError(
            f"the memory of '{name}' is not known; write it behind the name, as in '{name} 16GB'"
        )
    return Room(_CARDS_GIB[key] * _GIB, name=name)
