"""GGUF files of a repository: which one is meant, its headers alone, or the whole of it."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from apex_native.errors import HubError
from apex_native.hub.address import HubAddress, is_address, parse_address
from apex_native.hub.client import client
from apex_native.hub.repository import HubRepository

__all__ = ["gguf_names", "is_checkpoint", "local_gguf"]

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
MAX_NAMED = 6


def local_gguf(path: str | os.PathLike[str]) -> Path:
    """The path; of an address, its first shard in the client's cache, downloaded and checked.

    Raises HubError.
    """
    if not is_address(path):
        return Path(path)
    constants = client().constants
    return _downloaded(parse_address(path), constants.ENDPOINT, constants.HF_HUB_CACHE)


@functools.cache
def _downloaded(address: HubAddress, endpoint: str, cache: str) -> Path:  # noqa: ARG001
    """Once for a process: a branch that moves meanwhile changes nothing."""
    repository = HubRepository.open(address)
    paths = [repository.download(name) for name in gguf_names(repository)]
    return paths[0]


def gguf_names(repository: HubRepository) -> list[str]:
    """The file that the address means, with its other shards; HubError unless it is one model."""
    address = repository.address
    if address.path.endswith(".gguf"):
        if address.path not in repository.files:
            raise HubError(f"{address}: there is no such file in this revision; check its name")
        return _shards_of(repository, address.path)
    found = _models(repository, address)
    if len(found) != 1:
        raise HubError(_which(address, found))
    return _shards_of(repository, found[0])


def is_checkpoint(repository: HubRepository) -> bool:
    """Has the repository, or the folder of the address, a config and safetensors?"""
    path = repository.address.path
    if path.endswith(".gguf"):
        return False
    prefix = f"{path}/" if path else ""
    names = {name.removeprefix(prefix) for name in repository.files if name.startswith(prefix)}
    weights = any(name.endswith(".safetensors") and "/" not in name for name in names)
    return "config.json" in names and (weights or not _models(repository, repository.address))


def _models(repository: HubRepository, address: HubAddress) -> list[str]:
    """First shards of the models there; projectors and matrices belong to one, and are none."""
    prefix = f"{address.path}/" if address.path else ""
    names = sorted(n for n in repository.files if n.startswith(prefix) and n.endswith(".gguf"))
    firsts = [name for name in names if not _SHARD.search(name) or "-00001-of-" in name]
    return [n for n in firsts if not re.search(r"mmproj|imatrix", n, re.IGNORECASE)]


def _shards_of(repository: HubRepository, name: str) -> list[str]:
    found = _SHARD.search(name)
    if found is None:
        return [name]
    count = int(name[found.start() + 10 : found.start() + 15])
    names = [f"{name[: found.start()]}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    missing = [shard for shard in names if shard not in repository.files]
    if missing:
        raise HubError(f"{repository.at(missing[0])}: this shard is not there; ask its publisher")
    return names


def _which(address: HubAddress, found: list[str]) -> str:
    if not found:
        return (
            f"{address}: neither a checkpoint (config.json, *.safetensors) nor a GGUF file is "
            "there; check the name"
        )
    named = ", ".join(found[:MAX_NAMED])
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    base = HubAddress(address.repo, address.revision)
    return f"{address}: holds {len(found)} models ({named}{more}); name one, as {base}/{found[0]}"
