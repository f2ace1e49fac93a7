"""What a person wants to know of a model before deciding how to quantize it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from apex_native.classification import FileKind, find_kind
from apex_native.gguf_layout import layout_file
from apex_native.types import Classification, GgufFacts, MetadataValue, Role

__all__ = ["ModelFacts", "model_facts"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a GGUF model; None where the file does not say.

    n_shared_experts counts shared experts of a layer: from the metadata, 1 where tensors show
    that there are some but no key counts them. total_bytes is the size of all files; for a
    header without data the size they would have with it.
    """

    architecture: str
    name: str
    n_layer: int
    n_mtp_layer: int
    n_expert: int
    n_expert_used: int
    n_shared_experts: int
    context_length: int | None
    n_vocab: int | None
    n_weights: int
    n_tensors: int
    source_types: tuple[tuple[str, int], ...]
    alignment: int
    has_data: bool
    file_bytes: tuple[int, ...]
    total_bytes: int
    kind: str = FileKind.MODEL.value


def model_facts(classification: Classification, *, file_bytes: tuple[int, ...]) -> ModelFacts:
    """Collect the facts; file_bytes are the sizes of the model's files on disk, in order."""
    facts = classification.facts
    types = Counter(tensor.type.name for tensor in facts.tensors)
    return ModelFacts(
        architecture=classification.architecture,
        name=_text(facts.metadata.get("general.name")),
        n_layer=classification.n_layer,
        n_mtp_layer=classification.n_layer_all - classification.n_layer,
        n_expert=classification.n_expert,
        n_expert_used=classification.n_expert_used,
        n_shared_experts=_shared_experts(classification, facts),
        context_length=_count(facts.metadata.get(f"{facts.architecture}.context_length")),
        n_vocab=_vocabulary(facts),
        n_weights=sum(tensor.n_elements for tensor in facts.tensors),
        n_tensors=len(facts.tensors),
        source_types=tuple(types.most_common()),
        alignment=facts.alignment,
        has_data=facts.has_data,
        file_bytes=file_bytes,
        total_bytes=sum(file_bytes) if facts.has_data else _bytes_with_data(facts),
        kind=find_kind(facts).value,
    )


def _bytes_with_data(facts: GgufFacts) -> int:
    return layout_file(facts.tensors, sum(facts.kv_sizes.values())).total_bytes


def _shared_experts(classification: Classification, facts: GgufFacts) -> int:
    counted = _count(facts.metadata.get(f"{facts.architecture}.expert_shared_count"))
    if counted is not None:
        return counted
    return int(any(tensor.role is Role.SHARED_EXPERT for tensor in classification.tensors))


def _vocabulary(facts: GgufFacts) -> int | None:
    """The key if there is one, else the rows of the token embedding (as llama.cpp counts)."""
    stated = _count(facts.metadata.get(f"{facts.architecture}.vocab_size"))
    if stated is not None:
        return stated
    rows = (
        t.shape[-2] for t in facts.tensors if t.name == "token_embd.weight" and len(t.shape) > 1
    )
    return next(rows, None)


def _count(value: MetadataValue | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: MetadataValue | None) -> str:
    return value if isinstance(value, str) else ""
