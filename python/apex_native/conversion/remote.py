"""Models of the hub, opened: what planning asks for comes by ranges, shards when they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from apex_native.conversion.folder import MAX_HEADER_BYTES, weight_map
from apex_native.conversion.options import ConversionOptions
from apex_native.conversion.source import CheckpointSource
from apex_native.conversion.weight_files import HubWeights
from apex_native.errors import CheckpointError, GgufError
from apex_native.gguf import GgufFile, open_gguf
from apex_native.hub import HubAddress, HubRepository, Shards, Workspace, gguf_names
from apex_native.hub import is_checkpoint as holds_checkpoint

__all__ = ["HubHeader", "open_remote"]

FIRST_BYTES = 1 << 19
"""What is asked of a shard before the size of its header is known: mostly all of it."""

GGUF_FIRST_BYTES = 4 << 20
MAX_GGUF_HEADER = 512 << 20

AT_A_TIME = 8
"""Requests side by side."""

_COMPANIONS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Files beside the weights that a converter may read; others where an option asks for them."""

INDEX = "model.safetensors.index.json"


def open_remote(
    address: HubAddress,
    options: ConversionOptions | None = None,
    *,
    cache_limit: int | None = None,
    needs_data: bool = True,
) -> GgufFile | CheckpointSource:
    """Open a checkpoint or a GGUF file of the hub.

    Of a checkpoint, config, tokenizer and the shards' headers are fetched; shards come when their
    rows are read, and together take at most cache_limit bytes of the disk (None: they stay in the
    client's cache). A GGUF file is downloaded as a whole, or its header alone unless needs_data.
    Raises HubError, CheckpointError, GgufError.
    """
    repository = HubRepository.open(address)
    if holds_checkpoint(repository):
        return _checkpoint(repository, options or ConversionOptions(), cache_limit, needs_data)
    names = gguf_names(repository)
    if needs_data:
        return open_gguf(str(address))
    return HubHeader(repository, names)


class HubHeader(GgufFile):
    """A GGUF file of the hub that can be planned: everything but its weights."""

    def __init__(self, repository: HubRepository, names: Sequence[str]) -> None:
        """Fetch the headers of its shards; HubError, GgufError."""
        self._workspace = Workspace()
        try:
            folder = self._workspace.folder("gguf")
            for name in names:
                _place_gguf_header(repository, name, folder)
            super().__init__(folder / Path(names[0]).name)
        except BaseException:
            self._workspace.close()
            raise

    def close(self) -> None:
        """Let go of the file and remove what was fetched."""
        super().close()
        self._workspace.close()


def _checkpoint(
    repository: HubRepository,
    options: ConversionOptions,
    cache_limit: int | None,
    needs_data: bool,
) -> CheckpointSource:
    workspace = Workspace()
    try:
        folder = workspace.folder(repository.address.name)
        _place_companions(repository, folder, options)
        try:
            headers = _headers(repository, folder)
            shards = Shards(repository, headers, cache_limit, workspace.folder("downloads"))
            files = HubWeights(repository, shards, workspace, needs_data=needs_data)
            source = CheckpointSource(folder, options, files)
        except CheckpointError as error:
            said = str(error).replace(str(folder), str(repository.address))
            raise CheckpointError(said) from error
    except BaseException:
        workspace.close()
        raise
    source.facts = replace(source.facts, has_data=False)  # a plan reads no samples of it
    return source


def _place_companions(repository: HubRepository, folder: Path, options: ConversionOptions) -> None:
    suffixes = (
        *_COMPANIONS,
        *((".py",) if options.trust_remote_code else ()),
        *((".md",) if options.folder_metadata else ()),
    )
    prefix = _prefix(repository)
    names = [
        name
        for name in repository.files
        if name.startswith(prefix) and "/" not in name[len(prefix) :] and name.endswith(suffixes)
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for name, path in zip(names, pool.map(repository.download, names), strict=True):
            (folder / name[len(prefix) :]).symlink_to(path.resolve())


def _headers(repository: HubRepository, folder: Path) -> dict[Path, tuple[str, bytes]]:
    """Place in the folder → name in the repository and header, for every shard."""
    prefix = _prefix(repository)
    index = folder / INDEX
    present = {name[len(prefix) :] for name in repository.files if name.startswith(prefix)}
    if index.is_file():
        names = sorted(set(weight_map(index).values()))
    else:
        names = sorted(n for n in present if n.startswith("model") and n.endswith(".safetensors"))
    names = [name for name in names if name in present]  # what is missing is said of the folder
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = list(pool.map(lambda name: _header(repository, prefix + name), names))
    return {folder / n: (prefix + n, h) for n, h in zip(names, found, strict=True)}


def _header(repository: HubRepository, name: str) -> bytes:
    """Length and table of a safetensors file; only what is there of one that is none."""
    size = repository.files[name].size
    first = repository.read(name, 0, min(FIRST_BYTES, size)) if size else b""
    if len(first) < 8:
        return first
    end = 8 + int(struct.unpack("<Q", first[:8])[0])
    if end > min(size, MAX_HEADER_BYTES + 8):
        return first  # damaged: the folder's check says so
    rest = repository.read(name, len(first), end) if end > len(first) else b""
    return (first + rest)[:end]


def _place_gguf_header(repository: HubRepository, name: str, folder: Path) -> None:
    """Everything before the weights, of which only the size is not known beforehand."""
    size = repository.files[name].size
    path = folder / Path(name).name
    have, wanted = 0, min(GGUF_FIRST_BYTES, size)
    while True:
        with path.open("ab") as file:
            file.write(repository.read(name, have, wanted))
        have = wanted
        try:
            with GgufFile(path, with_siblings=False) as header:
                os.truncate(path, header.native.data_begin)
            return
        except GgufError as error:
            if have >= min(size, MAX_GGUF_HEADER) or path.open("rb").read(4) != b"GGUF":
                said = str(error).replace(str(path), repository.at(name))
                raise GgufError(said) from error
        wanted = min(size, 2 * have)


def _prefix(repository: HubRepository) -> str:
    path = repository.address.path
    return f"{path}/" if path else ""
