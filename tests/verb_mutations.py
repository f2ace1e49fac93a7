"""A valid model in pieces, and what can be wrong with a piece: mutations drawn from a seed.

Nothing here aims at a fault.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf_builder as build
from apex_native.gguf import open_gguf
from gguf_builder import Tensor, ValueType

__all__ = ["MUTATIONS", "Parts", "Setting", "read_parts", "write_mutant"]

_FORMATS = {v.value: f[1:] for v, f in build._FORMATS.items()}
_ODD_INTEGERS = (0, 1, 2, 3, 5, 7, 31, 64, 255, 512, 4097, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))


@dataclass(frozen=True)
class Setting:
    """A key-value pair taken apart."""

    key: str
    type: int
    is_array: bool
    values: tuple[Any, ...]

    def encoded(self) -> bytes:
        content = b"".join(_encode(self.type, value) for value in self.values)
        if self.is_array:
            return build.raw_array(self.key, self.type, len(self.values), content)
        return build.raw_pair(self.key, self.type, content)


@dataclass
class Parts:
    """A model that can be written with changes."""

    settings: list[Setting]
    tensors: list[Tensor]


def _encode(type: int, value: Any) -> bytes:
    if type == ValueType.STRING:
        return build.string(value)
    code = _FORMATS[type]
    if code in "fd":
        return struct.pack("<" + code, value)
    size = 8 * struct.calcsize("<" + code)
    if code == "?":
        return struct.pack("<B", bool(value))
    return (int(value) % 2**size).to_bytes(size // 8, "little")


def read_parts(path: Path) -> Parts:
    """A model of few tokens, in pieces."""
    with open_gguf(path) as file:
        settings = []
        for key in file.facts.kv_sizes:
            encoded = file.encoded_pair(key)
            at = 8 + len(key.encode())
            type = int.from_bytes(encoded[at : at + 4], "little")
            is_array = type == ValueType.ARRAY
            if is_array:
                type = int.from_bytes(encoded[at + 4 : at + 8], "little")
            value = file.metadata[key]
            values = value if isinstance(value, tuple) else (value,)
            settings.append(Setting(key, type, is_array, values))
        tensors = [
            Tensor(t.name, t.shape, t.type.id, file.tensor_bytes(t.name).tobytes())
            for t in file.tensors
        ]
    return Parts(settings, tensors)


# --- mutations ----------------------------------------------------------------------------------


def _pick(rng: random.Random, parts: Parts, *, array: bool) -> int | None:
    found = [i for i, s in enumerate(parts.settings) if s.is_array is array]
    return rng.choice(found) if found else None


def swap_values(rng: random.Random, parts: Parts) -> None:
    """Two single values of one type change places."""
    first = _pick(rng, parts, array=False)
    if first is None:
        return
    a = parts.settings[first]
    same = [
        i
        for i, s in enumerate(parts.settings)
        if i != first and not s.is_array and s.type == a.type
    ]
    if same:
        second = rng.choice(same)
        b = parts.settings[second]
        parts.settings[first] = replace(a, values=b.values)
        parts.settings[second] = replace(b, values=a.values)


def odd_number(rng: random.Random, parts: Parts) -> None:
    """A number becomes one that such settings seldom have."""
    numbers = [
        i for i, s in enumerate(parts.settings) if not s.is_array and s.type != ValueType.STRING
    ]
    i = rng.choice(numbers)
    s = parts.settings[i]
    is_float = _FORMATS[s.type] in "fd"
    parts.settings[i] = replace(s, values=(rng.choice(_ODD_FLOATS if is_float else _ODD_INTEGERS),))


def drop_setting(rng: random.Random, parts: Parts) -> None:
    parts.settings.pop(rng.randrange(len(parts.settings)))


def change_type(rng: random.Random, parts: Parts) -> None:
    """A value is stored as another type."""
    i = _pick(rng, parts, array=False)
    if i is None or parts.settings[i].type == ValueType.STRING:
        return
    s = parts.settings[i]
    type = rng.choice([ValueType.U8, ValueType.I32, ValueType.U64, ValueType.F32, ValueType.STRING])
    value = s.values[0]
    if type == ValueType.STRING:
        value = str(value)
    elif type != ValueType.F32 and isinstance(value, float):
        value = 1
    parts.settings[i] = replace(s, type=int(type), values=(value,))


def cut_array(rng: random.Random, parts: Parts) -> None:
    """An array loses its end, or gains a copy of it."""
    i = _pick(rng, parts, array=True)
    if i is None:
        return
    s = parts.settings[i]
    n = rng.randrange(len(s.values) + 1) if s.values else 0
    values = s.values + s.values[n:] if rng.random() < 0.3 else s.values[:n]
    parts.settings[i] = replace(s, values=values)


def shuffle_array(rng: random.Random, parts: Parts) -> None:
    i = _pick(rng, parts, array=True)
    if i is not None:
        values = list(parts.settings[i].values)
        rng.shuffle(values)
        parts.settings[i] = replace(parts.settings[i], values=tuple(values))


def turn_shape(rng: random.Random, parts: Parts) -> None:
    """A tensor's dimensions in another order."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    shape = list(t.shape)
    rng.shuffle(shape)
    parts.tensors[i] = replace(t, shape=tuple(shape))


def fold_shape(rng: random.Random, parts: Parts) -> None:
    """A tensor with as many weights and other dimensions."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    if len(t.shape) > 1 and t.shape[0] % 2 == 0:
        parts.tensors[i] = replace(t, shape=(t.shape[0] // 2, *t.shape[1:-1], t.shape[-1] * 2))


def swap_names(rng: random.Random, parts: Parts) -> None:
    if len(parts.tensors) < 2:
        return
    a, b = rng.sample(range(len(parts.tensors)), 2)
    first, second = parts.tensors[a], parts.tensors[b]
    parts.tensors[a] = replace(first, name=second.name)
    parts.tensors[b] = replace(second, name=first.name)


def rename_tensor(rng: random.Random, parts: Parts) -> None:
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    name = rng.choice([t.name + "2", t.name.replace("blk.0", "blk.7"), t.name.split(".")[0]])
    if name not in {tensor.name for tensor in parts.tensors}:
        parts.tensors[i] = replace(t, name=name)


def drop_tensor(rng: random.Random, parts: Parts) -> None:
    if len(parts.tensors) > 1:
        parts.tensors.pop(rng.randrange(len(parts.tensors)))


def other_values(rng: random.Random, parts: Parts) -> None:
    """A tensor of zeros, of NaN or of random bits."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    n = len(t.data)
    data = rng.choice([bytes(n), b"\xff" * n, rng.randbytes(n)])
    parts.tensors[i] = replace(t, data=data)


def other_type(rng: random.Random, parts: Parts) -> None:
    """F32 weights called I32."""
    i = rng.randrange(len(parts.tensors))
    if parts.tensors[i].type == build.F32:
        parts.tensors[i] = replace(parts.tensors[i], type=build.I32)


MUTATIONS: tuple[Callable[[random.Random, Parts], None], ...] = (
    *(swap_values, odd_number, odd_number, odd_number, drop_setting, change_type, cut_array),
    shuffle_array,
    turn_shape,
    fold_shape,
    swap_names,
    rename_tensor,
    drop_tensor,
    other_values,
    other_type,
)


def write_mutant(path: Path, base: Parts, rng: random.Random) -> str:
    """Write base with one to three mutations; their names."""
    parts = Parts(list(base.settings), list(base.tensors))
    chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 2, 3)))]
    for mutation in chosen:
        mutation(rng, parts)
    build.write_gguf(path, parts.tensors, [s.encoded() for s in parts.settings])
    return ", ".join(mutation.__name__ for mutation in chosen)
