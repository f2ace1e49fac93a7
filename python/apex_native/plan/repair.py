"""Metadata that promises layers the file does not have, made true.

transformers 5.23 drops a checkpoint's ``mtp.*`` tensors on saving and keeps the count of them in
its configuration, so that converters write ``nextn_predict_layers`` without the layers.
"""

from __future__ import annotations

from apex_native.gguf_layout import MetadataEntry
from apex_native.types import Classification, GgufFacts, MetadataValue

__all__ = ["missing_mtp_layers", "repaired_metadata"]


def missing_mtp_layers(classification: Classification) -> tuple[int, ...]:
    """Layers for multi-token prediction that the metadata counts and no tensor belongs to."""
    present = {t.layer for t in classification.tensors if t.name.startswith("blk.")}
    if not present:
        return ()
    promised = range(classification.n_layer, classification.n_layer_all)
    return tuple(layer for layer in promised if layer not in present)


def repaired_metadata(
    classification: Classification, facts: GgufFacts
) -> tuple[MetadataEntry, ...]:
    """The counts without the missing layers, and arrays of a value per layer cut to match.

    llama.cpp refuses an array whose length is not block_count (get_key_or_arr). Empty where
    nothing is missing.
    """
    missing = missing_mtp_layers(classification)
    if not missing:
        return ()
    n_all = classification.n_layer_all
    n_left = n_all - len(missing)
    prefix = f"{facts.architecture}."
    changed: dict[str, MetadataValue] = {
        f"{prefix}block_count": n_left,
        f"{prefix}nextn_predict_layers": n_left - classification.n_layer,
    }
    for key, value in facts.metadata.items():
        if key.startswith(prefix) and isinstance(value, tuple) and len(value) == n_all:
            changed[key] = tuple(v for i, v in enumerate(value) if i not in missing)
    return tuple(MetadataEntry.infer(key, value) for key, value in changed.items())
