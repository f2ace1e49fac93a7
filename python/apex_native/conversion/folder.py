"""A checkpoint's folder, looked at before the converter sees it: every fault is one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from apex_native.errors import CheckpointError

__all__ = ["Shard", "check_folder", "is_checkpoint", "read_shard", "shards_of", "weight_map"]

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""

_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A safetensors file's header; n_bytes is the size that it promises, header included."""

    path: Path
    names: frozenset[str]
    n_bytes: int

    @property
    def missing(self) -> str | None:
        """A sentence where the file is shorter than its header says."""
        found = self.path.stat().st_size
        if found >= self.n_bytes:
            return None
        return f"{self.path} has {found:,} of {self.n_bytes:,} bytes"


def is_checkpoint(path: Path) -> bool:
    """Is it a folder, which only a checkpoint can be?"""
    return path.is_dir()


def check_folder(folder: Path, *, allow_pickle: bool) -> tuple[Shard, ...]:
    """The shards of a checkpoint, in the order in which they are read; all that can be known now.

    Empty for a pickled checkpoint that is allowed. Raises CheckpointError.
    """
    config = _json_file(folder / "config.json", "the architecture and its sizes")
    _require_architecture(folder, config)
    paths = shards_of(folder)
    if not paths:
        _require_pickle(folder, allowed=allow_pickle)
        return ()
    shards = tuple(read_shard(path) for path in paths)
    _check_index(folder, shards)
    return shards


def shards_of(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that belong to the model, as upstream's converter finds them."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return tuple(sorted(folder.glob("model*.safetensors")))
    paths = tuple(folder / name for name in sorted(set(weight_map(index).values())))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{folder}: {missing[0]}{more} is missing, {index.name} names it; download the rest"
        )
    return paths


def read_shard(path: Path) -> Shard:
    """A file's header, checked: CheckpointError where it is damaged or holds unknown types."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(
                f"{path}: no safetensors file, or its header is cut off ({size:,} bytes in all); "
                "download it again"
            )
        try:
            table = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(
                f"{path}: the safetensors header is damaged ({error}); download it again"
            ) from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: the safetensors header is no table; download it again")
    table.pop("__metadata__", None)
    ends = [_checked_end(path, name, entry) for name, entry in table.items()]
    return Shard(path, frozenset(table), 8 + length + max(ends, default=0))


def _checked_end(path: Path, name: str, entry: Any) -> int:
    try:
        dtype, shape = entry["dtype"], [int(n) for n in entry["shape"]]
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the header's entry for {name!r} is damaged; download it again"
        ) from error
    if dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: {name} is of type {dtype!r}, expected one of {', '.join(_ITEM_BYTES)}; "
            "save the checkpoint in a type that has a GGUF form"
        )
    expected = prod(shape) * _ITEM_BYTES[dtype]
    if begin < 0 or min(shape, default=0) < 0 or end - begin != expected:
        raise CheckpointError(
            f"{path}: {name} is {shape} {dtype}, which takes {expected:,} bytes, and its place "
            f"has {end - begin:,}; download it again"
        )
    return end


def _check_index(folder: Path, shards: tuple[Shard, ...]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    held = {name: shard.path.name for shard in shards for name in shard.names}
    promised = weight_map(index)
    for name, file in promised.items():
        if name not in held:
            raise CheckpointError(
                f"{folder}: {index.name} says that {file} holds {name}, which no file does; "
                "download index and files of one revision"
            )
    for name, file in held.items():
        if name not in promised:
            raise CheckpointError(
                f"{folder}: {file} holds {name}, of which {index.name} knows nothing; "
                "download index and files of one revision"
            )


def weight_map(index: Path) -> Mapping[str, str]:
    """Tensor → file, as model.safetensors.index.json says; CheckpointError unless it is one."""
    found = _json_file(index, "which file holds which tensor").get("weight_map")
    names = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index}: has no table of files beside it; download it again")
    assert isinstance(found, dict)
    return found


def _require_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    parts = [config, config.get("text_config"), config.get("llm_config")]
    named = [part for part in parts if isinstance(part, dict) and part.get("architectures")]
    if not named and "ssm_cfg" not in config:
        raise CheckpointError(
            f"{folder}: config.json names no architecture (`architectures`); "
            "give the folder of a transformers checkpoint"
        )


def _require_pickle(folder: Path, *, allowed: bool) -> None:
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise CheckpointError(
            f"{folder}: no weights there, expected model*.safetensors; download them"
        )
    if not allowed:
        raise CheckpointError(
            f"{folder}: its weights are pickled ({pickled[0].name}), and unpickling can run code; "
            "get a safetensors version, or pass `allow_pickle=True` if you trust it"
        )


def _json_file(path: Path, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no {path.name}, which says {what}; give a checkpoint's folder"
        ) from None
    except NotADirectoryError:
        raise CheckpointError(
            f"{path.parent}: is a file, expected a checkpoint's folder, the one with {path.name}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a table, found {type(found).__name__}")
    return found
