"""A model without some of its layers, as llama-quantize's ``--prune-layers`` makes one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apex_native.errors import GgufError
from apex_native.gguf_encode import encode_entry
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.types import GgufFacts
from apex_native.weights import WeightSource, interrupt

__all__ = ["PrunedSource"]

_BLOCK = re.compile(r"blk\.(\d+)\.")


class PrunedSource:
    """Another source with layers left out: the others move up, block_count counts what is left.

        with open_gguf("model.gguf") as file:
            source = PrunedSource(file, [20, 21])

    A `WeightSource`. Only block_count changes, as in llama-quantize; a model whose metadata has a
    value for each layer will not load. Raises GgufError for a layer that the model does not have
    and where none is left.
    """

    def __init__(self, source: WeightSource, layers: Sequence[int]) -> None:
        """Decide the new names; nothing is read."""
        present = sorted({int(found[1]) for t in source.facts.tensors if (found := _block(t.name))})
        missing = sorted(set(layers) - set(present))
        if missing:
            raise GgufError(f"there is no layer {missing[0]} to leave out; the model has {present}")
        kept = [layer for layer in present if layer not in set(layers)]
        if not kept:
            raise GgufError("no layer would be left; leave fewer out")
        self._source = source
        self._layers = tuple(sorted(set(layers)))
        self._new = {layer: i for i, layer in enumerate(kept)}
        self._key = f"{source.facts.architecture}.block_count"
        self._count = MetadataEntry(self._key, GgufValueType.UINT32, len(kept))
        self._old_names: dict[str, str] = {}
        tensors = []
        for tensor in source.facts.tensors:
            name = self.new_name(tensor.name)
            if name is not None:
                self._old_names[name] = tensor.name
                tensors.append(replace(tensor, name=name))
        facts = source.facts
        stored = {self.new_name(name) for name in facts.as_stored}
        self._facts = replace(
            facts,
            metadata={**facts.metadata, self._key: len(kept)},
            tensors=tuple(tensors),
            n_layer_of_mixes=_whole_count(facts, self._key),
            as_stored=frozenset(name for name in stored if name is not None),
            kv_sizes={**facts.kv_sizes, self._key: len(encode_entry(self._count))},
        )

    def new_name(self, name: str) -> str | None:
        """What a tensor of the whole model is called here; None where it is left out."""
        found = _block(name)
        if found is None:
            return name
        new = self._new.get(int(found[1]))
        return None if new is None else f"{name[: found.start(1)]}{new}{name[found.end(1) :]}"

    @property
    def facts(self) -> GgufFacts:
        """Metadata and tensor table of what is left."""
        return self._facts

    @property
    def path(self) -> Path:
        """The file that is read first."""
        return self._source.shard_paths[0]

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self._source.shard_paths

    @property
    def missing_data(self) -> str | None:
        """As the whole model's."""
        return self._source.missing_data

    def interrupt(self) -> None:
        """As the whole model's."""
        interrupt(self._source)

    def encoded_pair(self, key: str) -> bytes:
        """A key-value pair as GGUF stores it; KeyError if absent."""
        return encode_entry(self._count) if key == self._key else self._source.encoded_pair(key)

    def fingerprint(self) -> str:
        """Of the whole model and of what is left out."""
        text = f"{self._source.fingerprint()} without layers {self._layers}"
        return hashlib.sha256(text.encode()).hexdigest()

    def stored_tensor(self, name: str) -> Any:
        """A tensor's rows for native readers; KeyError."""
        return self._source.stored_tensor(self._old_names[name])


def _whole_count(facts: GgufFacts, key: str) -> int | None:
    """llama-quantize picks types as if the model still had all its layers."""
    count = facts.metadata.get(key)
    return count if isinstance(count, int) else None


def _block(name: str) -> re.Match[str] | None:
    return _BLOCK.search(name)
